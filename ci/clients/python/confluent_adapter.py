"""confluent-kafka: librdkafka from Python."""

from dataclasses import replace

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from client import SECONDS_MAX, Client, Member, Record, until


def record_of(message):
    if message.error():
        raise AssertionError(str(message.error()))
    return Record(
        message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(),
        tuple(message.headers() or ()),
    )  # fmt: skip


class Adapter(Client):
    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.common = {"bootstrap.servers": bootstrap}
        self.admin = AdminClient(self.common)

    def create_topic(self, topic, partitions):
        self.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(SECONDS_MAX)

    def delete_topic(self, topic):
        self.admin.delete_topics([topic])[topic].result(SECONDS_MAX)

    def topics(self):
        return self.admin.list_topics(timeout=SECONDS_MAX).topics.keys()

    def partition_count(self, topic):
        found = self.admin.describe_topics(TopicCollection([topic]))[topic].result(SECONDS_MAX)
        return len(found.partitions)

    def produce(self, topic, records, codec="none", idempotent=False):
        producer = Producer(
            {**self.common, "acks": "all", "compression.type": codec, "enable.idempotence": idempotent, "linger.ms": 20}
        )
        offsets = {}

        def delivered(index):
            return lambda error, message: offsets.update({index: error or message.offset()})

        for index, record in enumerate(records):
            producer.produce(
                topic,
                partition=record.partition,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                timestamp=record.timestamp or 0,
                on_delivery=delivered(index),
            )
        assert producer.flush(SECONDS_MAX) == 0, "not every record was acknowledged"
        return [replace(record, offset=offsets[index]) for index, record in enumerate(records)]

    def consumer(self, group):
        return Consumer(
            {
                **self.common,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "heartbeat.interval.ms": 500,
            }
        )

    def member(self, group, topic):
        return ConfluentMember(self.consumer(group), topic)

    def offset_for_time(self, topic, partition, timestamp):
        consumer = self.consumer("unused")
        (found,) = consumer.offsets_for_times([TopicPartition(topic, partition, timestamp)], timeout=SECONDS_MAX)
        consumer.close()
        assert found.error is None, str(found.error)
        return None if found.offset == OFFSET_END else found.offset

    def read(self, topic, partition, offset, count):
        consumer = self.consumer("unused")
        consumer.assign([TopicPartition(topic, partition, offset)])
        messages = []
        until(lambda: messages.extend(consumer.consume(count, 0.5)) or len(messages) >= count)
        consumer.close()
        return [record_of(message) for message in messages[:count]]


class ConfluentMember(Member):
    def __init__(self, consumer, topic):
        self.consumer, self.topic = consumer, topic
        consumer.subscribe([topic])

    def poll(self):
        return [record_of(message) for message in self.consumer.consume(100, 0.1)]

    def assignment(self):
        return {assigned.partition for assigned in self.consumer.assignment()}

    def commit(self, offsets):
        places = [TopicPartition(self.topic, partition, offset) for partition, offset in offsets.items()]
        for done in self.consumer.commit(offsets=places, asynchronous=False):
            assert done.error is None, str(done.error)

    def close(self):
        self.consumer.close()
