"""The clients that run while a broker is killed: producers and a consumer group that commits."""

import random
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ledger import parse_value, reader, value_of
from server import Failed, check

GROUP = "durability-group"
QUEUED_RECORDS_MAX = 400
QUEUED_BYTES_MAX = 8_000_000

# Clients that notice a restart at once.
RECONNECT = {
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 200,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "socket.connection.setup.timeout.ms": 5000,
    "log_level": 2,
}


def admin_client(bootstrap):
    return AdminClient({"bootstrap.servers": bootstrap, **RECONNECT})


def create_topics(bootstrap, topics):
    """`topics` is name → (partitions, configuration)."""
    new = [NewTopic(name, partitions, 1, config=config) for name, (partitions, config) in topics.items()]
    client = admin_client(bootstrap)
    for name, future in client.create_topics(new, operation_timeout=30).items():
        try:
            future.result(60)
        except KafkaException as error:
            raise Failed(f"creating {name} fails: {error}") from None


def mixed_length(chance):
    """A value length from 10 bytes to 200 KB: mostly small, some large."""
    drawn = chance.random()
    if drawn < 0.70:
        return chance.randint(10, 300)
    if drawn < 0.95:
        return chance.randint(300, 10_000)
    return chance.randint(10_000, 200_000)


class Sender(threading.Thread):
    """One producer with acks=all. Every delivery report goes to the ledger; nothing is given up before `finish`."""

    def __init__(self, name, bootstrap, ledger, idempotent, chance, length=mixed_length, pace_bytes=None):
        super().__init__(name=name, daemon=True)
        self.ledger = ledger
        self.chance = chance
        self.length = length
        self.pace_bytes = pace_bytes
        self.sequence = 0
        self.bytes = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.stopping = threading.Event()
        self.producer = Producer({
            "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": idempotent,
            "message.timeout.ms": 600_000, "request.timeout.ms": 10_000, "retries": 1_000_000,
            "retry.backoff.ms": 20, "retry.backoff.max.ms": 200, "linger.ms": chance.choice([0, 5]),
            "compression.type": chance.choice(["none", "lz4", "gzip", "zstd"]),
            "error_cb": self.on_error, **RECONNECT,
        })  # fmt: skip

    def on_error(self, error):
        if error.fatal():
            self.ledger.error(f"{self.name}: fatal error {error}")

    def send(self):
        record = (self.name, self.sequence)
        value = value_of(*record, self.length(self.chance))
        topic, partition = self.chance.choice(self.ledger.partitions)
        self.sequence += 1
        self.bytes += len(value)
        self.in_flight += 1
        self.in_flight_bytes += len(value)

        def on_delivery(error, message):
            self.in_flight -= 1
            self.in_flight_bytes -= len(value)
            if error is None:
                self.ledger.on_acknowledged((topic, partition), message.offset(), record)
            else:
                self.ledger.error(f"{self.name}: record {record[1]} is not delivered: {error}")

        self.producer.produce(topic, value, partition=partition, on_delivery=on_delivery)

    def run(self):
        started = time.monotonic()
        try:
            while not self.stopping.is_set():
                paced = self.pace_bytes and self.bytes > (time.monotonic() - started + 0.1) * self.pace_bytes
                if paced or self.in_flight >= QUEUED_RECORDS_MAX or self.in_flight_bytes >= QUEUED_BYTES_MAX:
                    self.producer.poll(0.01)
                    continue
                self.send()
                self.producer.poll(0)
        except Exception as error:
            self.ledger.error(f"{self.name}: {error}")

    def finish(self, timeout_seconds=60):
        """Stops sending; everything sent must be acknowledged by then."""
        self.stopping.set()
        self.join()
        left = self.producer.flush(timeout_seconds)
        check(left == 0, f"{self.name}: {left} records are not acknowledged within {timeout_seconds} s")


def start_senders(bootstrap, ledger, chance, idempotent=2, plain=2, suffix="", **options):
    senders = []
    for number in range(idempotent + plain):
        kind = "idempotent" if number < idempotent else "plain"
        own_chance = random.Random(chance.random())
        sender = Sender(f"{kind}-{number}{suffix}", bootstrap, ledger, number < idempotent, own_chance, **options)
        sender.start()
        senders.append(sender)
    return senders


class Committer(threading.Thread):
    """A member of a consumer group that commits synchronously after each poll.

    `possible` holds, for each partition, the offsets that the group may stand at: the one acknowledged last and those
    that were sent after it and not answered.
    """

    def __init__(self, bootstrap, ledger):
        super().__init__(name="committer", daemon=True)
        self.ledger = ledger
        self.possible = {partition: {-1001} for partition in ledger.partitions}
        # Every offset that was ever sent.
        self.sent = {partition: {-1001} for partition in ledger.partitions}
        self.acknowledged_commits = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000,
            "max.poll.interval.ms": 60_000, "fetch.error.backoff.ms": 20, **RECONNECT,
        })  # fmt: skip
        self.consumer.subscribe(sorted({topic for topic, _ in ledger.partitions}))

    def run(self):
        try:
            while not self.stopping.is_set():
                self.turn()
        except Exception as error:
            self.ledger.error(f"{self.name}: {error!r}")
        finally:
            self.consumer.close()

    def turn(self):
        positions = {}
        for message in self.consumer.consume(500, timeout=0.1):
            if message.error():
                continue
            partition = (message.topic(), message.partition())
            self.ledger.on_seen(partition, message.offset(), parse_value(message.value()))
            positions[partition] = message.offset() + 1
        if positions:
            self.commit(positions)

    def commit(self, positions):
        with self.lock:
            for partition, offset in positions.items():
                self.possible[partition].add(offset)
                self.sent[partition].add(offset)
        offsets = [TopicPartition(*partition, offset) for partition, offset in positions.items()]
        try:
            answered = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException:
            return  # It may have happened.
        with self.lock:
            for answer in answered:
                if answer.error is None:
                    self.possible[(answer.topic, answer.partition)] = {answer.offset}
                    self.acknowledged_commits += 1

    def finish(self):
        self.stopping.set()
        self.join(60)
        check(not self.is_alive(), "the consumer group's member did not end within 60 s")

    def snapshot(self):
        with self.lock:
            return {partition: set(offsets) for partition, offsets in self.possible.items()}


def committed_offsets(bootstrap, partitions, group=GROUP):
    """What OffsetFetch returns."""
    consumer = reader(bootstrap, **{"group.id": group})
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                found = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout=10)
                break
            except KafkaException as error:
                check(time.monotonic() < deadline, f"OffsetFetch fails: {error}")
                time.sleep(0.05)
        for answer in found:
            check(answer.error is None, f"OffsetFetch of {answer.topic}-{answer.partition} fails: {answer.error}")
        return {(answer.topic, answer.partition): answer.offset for answer in found}
    finally:
        consumer.close()


def check_commits(bootstrap, before, committer):
    """Each committed offset is one that may be there: `before` is the committer's snapshot at the kill."""
    found = committed_offsets(bootstrap, before)
    now = committer.snapshot()
    for partition, offset in found.items():
        # A commit that was made meanwhile is in the present snapshot only.
        allowed = before[partition] | now[partition]
        check(offset in allowed, f"{partition}: the group stands at {offset}, not at one of {sorted(allowed)}")
