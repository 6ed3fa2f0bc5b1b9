"""What was sent, acknowledged and read, and whether the broker still has it."""

import bisect
import random
import threading
import time
from collections import defaultdict

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from server import Failed, check

READ_SECONDS_MAX = 120
PADDING = random.Random(20).randbytes(1 << 20)


def value_of(producer, sequence, length):
    """The unique value of one record: about `length` bytes that follow from producer and sequence."""
    head = f"{producer}:{sequence}:{length}:".encode()
    start = (sequence * 7919) % (len(PADDING) // 2)
    return head + PADDING[start : start + max(0, length - len(head))]


def parse_value(value):
    """Producer and sequence of a value that `value_of` made; fails for any other."""
    producer, sequence, length, _ = value.split(b":", 3)
    made = (producer.decode(), int(sequence))
    check(value == value_of(*made, int(length)), f"the value of record {made} came back changed")
    return made


class Ledger:
    """The history of all partitions: (topic, partition) → offset → (producer, sequence).

    `acknowledged` holds what delivery reports said, `seen` what any reader got. Producers and readers of all threads
    add to it; whatever contradicts is an error at once.
    """

    def __init__(self, partitions):
        self.partitions = list(partitions)
        self.acknowledged = {partition: {} for partition in self.partitions}
        self.seen = {partition: {} for partition in self.partitions}
        self.lock = threading.Lock()
        self.errors = []

    def on_acknowledged(self, partition, offset, record):
        with self.lock:
            self._note(self.acknowledged, "acknowledged", partition, offset, record)

    def on_seen(self, partition, offset, record):
        with self.lock:
            self._note(self.seen, "seen", partition, offset, record)

    def _note(self, table, verb, partition, offset, record):
        for other in (self.acknowledged, self.seen):
            known = other[partition].get(offset)
            if known is not None and known != record:
                self.errors.append(f"{partition} offset {offset} was {known}, then {verb} as {record}")
        table[partition][offset] = record

    def error(self, message):
        with self.lock:
            self.errors.append(message)

    def check_errors(self):
        with self.lock:
            check(not self.errors, "; ".join(self.errors[:3]))

    def snapshot(self):
        """What is acknowledged now: a copy that the producers leave alone."""
        with self.lock:
            return {partition: dict(offsets) for partition, offsets in self.acknowledged.items()}

    def acknowledged_count(self):
        with self.lock:
            return sum(map(len, self.acknowledged.values()))


def reader(bootstrap, **extra):
    """A consumer outside of any group's rebalances, which reads what it is assigned."""
    return Consumer({
        "bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False,
        "auto.offset.reset": "error", "enable.partition.eof": True, "fetch.max.bytes": 20_000_000,
        "fetch.error.backoff.ms": 20, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 200,
        "topic.metadata.refresh.fast.interval.ms": 50, "queued.max.messages.kbytes": 65536, "log_level": 2, **extra,
    })  # fmt: skip


def end_offsets(bootstrap, partitions):
    """(log start, high watermark) of each partition, which may have no leader yet when the broker has just started."""
    bounds = {}
    deadline = time.monotonic() + 30
    while len(bounds) < len(partitions):
        # A consumer of its own for each attempt: librdkafka remembers for long that there was no leader.
        consumer = reader(bootstrap)
        try:
            for partition in partitions:
                if partition not in bounds:
                    bounds[partition] = consumer.get_watermark_offsets(TopicPartition(*partition), timeout=10)
        except KafkaException as error:
            check(time.monotonic() < deadline, f"ListOffsets of {partition} fails: {error}")
            time.sleep(0.02)
        finally:
            consumer.close()
    return bounds


def read_ranges(bootstrap, ranges, on_record):
    """Reads each partition of `ranges` from its first offset up to the one before its end."""
    ranges = {partition: bounds for partition, bounds in ranges.items() if bounds[0] < bounds[1]}
    consumer = reader(bootstrap)
    try:
        consumer.assign([TopicPartition(*partition, start) for partition, (start, _) in ranges.items()])
        missing = dict(ranges)
        deadline = time.monotonic() + READ_SECONDS_MAX
        while missing:
            for message in consumer.consume(2000, timeout=1):
                partition = (message.topic(), message.partition())
                if message.error():
                    code = message.error().code()
                    if code == KafkaError._PARTITION_EOF and partition in missing:
                        end = missing[partition][1]
                        check(message.offset() >= end, f"{partition} ends at {message.offset()}, not at {end}")
                    elif code not in (KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                        raise Failed(f"reading {partition} fails: {message.error()}")
                    continue
                if partition not in missing or message.offset() >= missing[partition][1]:
                    continue
                expected, end = missing[partition]
                check(
                    message.offset() == expected, f"{partition}: offset {message.offset()} came where {expected} belongs"
                )
                on_record(partition, message)
                missing[partition] = (expected + 1, end)
                if expected + 1 == end:
                    del missing[partition]
                    consumer.incremental_unassign([TopicPartition(*partition)])
            check(time.monotonic() < deadline, f"reading did not end within {READ_SECONDS_MAX} s; missing: {missing}")
    finally:
        consumer.close()


def read_back(bootstrap, ledger, starts=None):
    """Reads all partitions from `starts` (or 0) to their ends: contiguous, and equal to what is known so far.

    Everything acknowledged before the call from there on must be read. Returns the ends.
    """
    starts = starts or {}
    acknowledged = ledger.snapshot()
    bounds = end_offsets(bootstrap, ledger.partitions)
    ends = {partition: end for partition, (_, end) in bounds.items()}
    for partition, offsets in acknowledged.items():
        last = max(offsets, default=-1)
        check(last < ends[partition], f"{partition} ends at {ends[partition]}, but {last} was acknowledged")
    found = defaultdict(dict)

    def on_record(partition, message):
        record = parse_value(message.value())
        found[partition][message.offset()] = record
        ledger.on_seen(partition, message.offset(), record)

    read_ranges(bootstrap, {p: (starts.get(p, 0), ends[p]) for p in ledger.partitions}, on_record)
    for partition, offsets in acknowledged.items():
        for offset, record in offsets.items():
            if offset >= starts.get(partition, 0):
                is_there = found[partition].get(offset)
                check(is_there == record, f"{partition} offset {offset}: {record} was acknowledged, {is_there} is there")
    ledger.check_errors()
    return ends


def check_idempotent(ledger, producers):
    """After a full read-back: the records of each of these producers stand once and in order in each partition."""
    for partition, offsets in ledger.seen.items():
        last = defaultdict(lambda: -1)
        for offset in sorted(offsets):
            producer, sequence = offsets[offset]
            if producer in producers:
                check(
                    sequence > last[producer],
                    f"{partition} offset {offset}: {producer} {sequence} stands behind {last[producer]}",
                )
                last[producer] = sequence


def tail_starts(ledger, count):
    """For each partition the offset `count` records below the last acknowledged one."""
    starts = {}
    for partition, offsets in ledger.snapshot().items():
        ordered = sorted(offsets)
        starts[partition] = ordered[bisect.bisect_left(ordered, ordered[-1] - count)] if ordered else 0
    return starts
