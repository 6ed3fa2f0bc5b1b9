"""kafka-python, 2.x and 3.x."""

from dataclasses import replace

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.structs import OffsetAndMetadata
from client import SECONDS_MAX, Client, Member, Record, until


def records_of(polled):
    return [
        Record(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for records in polled.values()
        for r in records
    ]


class Adapter(Client):
    null_headers = False

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def create_topic(self, topic, partitions):
        self.admin.create_topics([NewTopic(topic, partitions, 1)])

    def delete_topic(self, topic):
        self.admin.delete_topics([topic])

    def topics(self):
        return self.admin.list_topics()

    def partition_count(self, topic):
        return len(self.admin.describe_topics([topic])[0]["partitions"])

    def produce(self, topic, records, codec="none", idempotent=False):
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            compression_type=None if codec == "none" else codec,
            enable_idempotence=idempotent,
            linger_ms=20,
        )
        sent = [
            producer.send(topic, r.value, r.key, list(r.headers), r.partition, timestamp_ms=r.timestamp)
            for r in records
        ]
        placed = [replace(r, offset=future.get(SECONDS_MAX).offset) for r, future in zip(records, sent)]
        producer.close()
        return placed

    def consumer(self, group=None):
        return KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=500,
        )

    def member(self, group, topic):
        return KafkaPythonMember(self.consumer(group), topic)

    def offset_for_time(self, topic, partition, timestamp):
        consumer, place = self.consumer(), TopicPartition(topic, partition)
        found = consumer.offsets_for_times({place: timestamp})[place]
        consumer.close()
        return found and found.offset

    def read(self, topic, partition, offset, count):
        consumer, place = self.consumer(), TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, offset)
        records = []
        until(lambda: records.extend(records_of(consumer.poll(500))) or len(records) >= count)
        consumer.close()
        return records[:count]


class KafkaPythonMember(Member):
    def __init__(self, consumer, topic):
        self.consumer, self.topic = consumer, topic
        consumer.subscribe([topic])

    def poll(self):
        return records_of(self.consumer.poll(100))

    def assignment(self):
        return {assigned.partition for assigned in self.consumer.assignment()}

    def commit(self, offsets):
        self.consumer.commit(
            {TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        )

    def close(self):
        self.consumer.close()
