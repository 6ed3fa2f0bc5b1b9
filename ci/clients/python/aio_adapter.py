"""aiokafka, driven from the scenarios' thread by one event loop in another."""

import asyncio
import threading
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from client import SECONDS_MAX, Client, Member, Record, until

LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, LOOP).result(SECONDS_MAX)


async def started(make, *arguments, **options):
    """Clients are made inside the loop that they will run on."""
    client = make(*arguments, **options)
    await client.start()
    return client


async def called(function, *arguments):
    """A plain function of a client is called inside its loop too."""
    return function(*arguments)


def records_of(polled):
    return [
        Record(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for records in polled.values()
        for r in records
    ]


class Adapter(Client):
    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.admin = wait(started(AIOKafkaAdminClient, bootstrap_servers=bootstrap))

    def create_topic(self, topic, partitions):
        answer = wait(self.admin.create_topics([NewTopic(topic, partitions, 1)]))
        assert [error[1] for error in answer.topic_errors] == [0], answer

    def delete_topic(self, topic):
        answer = wait(self.admin.delete_topics([topic]))
        assert [code for _, code in answer.topic_error_codes] == [0], answer

    def topics(self):
        return wait(self.admin.list_topics())

    def partition_count(self, topic):
        return len(wait(self.admin.describe_topics([topic]))[0]["partitions"])

    def produce(self, topic, records, codec="none", idempotent=False):
        return wait(self.produced(topic, records, codec, idempotent))

    async def produced(self, topic, records, codec, idempotent):
        producer = await started(
            AIOKafkaProducer,
            bootstrap_servers=self.bootstrap,
            acks="all",
            compression_type=None if codec == "none" else codec,
            enable_idempotence=idempotent,
            linger_ms=20,
        )
        sent = [
            await producer.send(topic, r.value, r.key, r.partition, r.timestamp, list(r.headers)) for r in records
        ]
        placed = [replace(r, offset=(await future).offset) for r, future in zip(records, sent)]
        await producer.stop()
        return placed

    def consumer(self, group=None):
        return wait(
            started(
                AIOKafkaConsumer,
                bootstrap_servers=self.bootstrap,
                group_id=group,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                heartbeat_interval_ms=500,
            )
        )

    def member(self, group, topic):
        return AioMember(self.consumer(group), topic)

    def offset_for_time(self, topic, partition, timestamp):
        consumer, place = self.consumer(), TopicPartition(topic, partition)
        found = wait(consumer.offsets_for_times({place: timestamp}))[place]
        wait(consumer.stop())
        return found and found.offset

    def read(self, topic, partition, offset, count):
        consumer, place = self.consumer(), TopicPartition(topic, partition)
        wait(called(consumer.assign, [place]))
        wait(called(consumer.seek, place, offset))
        records = []
        until(lambda: records.extend(records_of(wait(consumer.getmany(timeout_ms=500)))) or len(records) >= count)
        wait(consumer.stop())
        return records[:count]


class AioMember(Member):
    def __init__(self, consumer, topic):
        self.consumer, self.topic = consumer, topic
        wait(called(consumer.subscribe, [topic]))

    def poll(self):
        return records_of(wait(self.consumer.getmany(timeout_ms=100)))

    def assignment(self):
        return {assigned.partition for assigned in self.consumer.assignment()}

    def commit(self, offsets):
        wait(self.consumer.commit({TopicPartition(self.topic, p): offset for p, offset in offsets.items()}))

    def close(self):
        wait(self.consumer.stop())
