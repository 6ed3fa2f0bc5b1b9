"""The small interface between the scenarios and a client library; an `Adapter` implements it."""

import time
from dataclasses import dataclass

SECONDS_MAX = 60  # How long anything that must happen may take.


@dataclass(frozen=True, order=True)
class Record:
    partition: int
    offset: int | None  # None before it was produced.
    timestamp: int | None  # Milliseconds; None lets the client choose.
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Client:
    """One client library. An adapter implements every method; `bootstrap` is HOST:PORT."""

    # What the library can send at all.
    sets_timestamps = True
    null_headers = True
    empty_bytes = True
    # Whether a consumer reads a partition that comes back to it from the committed offset, whatever it asked for before.
    forgets_lost_partitions = True

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def create_topic(self, topic, partitions): ...
    def delete_topic(self, topic): ...
    def topics(self):
        """The names of all topics."""

    def partition_count(self, topic): ...
    def produce(self, topic, records, codec="none", idempotent=False):
        """Produces with acks=all; returns the records with the offsets that the broker gave them."""

    def member(self, group, topic):
        """A `Member` that has subscribed and starts at the earliest offset."""

    def offset_for_time(self, topic, partition, timestamp):
        """The first offset at or after `timestamp`, None if there is none."""

    def read(self, topic, partition, offset, count):
        """`count` records from `offset` on, with the partition assigned by hand."""

    def read_and_commit(self, group, topic, count):
        """Joins, takes exactly `count` records of partition 0, commits the next offset, leaves."""
        member = self.member(group, topic)
        records = []
        until(lambda: records.extend(member.poll()) or len(records) >= count)
        member.commit({0: records[count - 1].offset + 1})
        member.close()
        return records[:count]


class Member:
    """A member of a group; it makes progress only inside `poll`, which returns soon."""

    def poll(self):
        """The records that arrived."""

    def assignment(self):
        """The set of partitions this member owns now."""

    def commit(self, offsets):
        """Commits {partition: next offset}."""

    def close(self):
        """Leaves the group."""


def until(condition):
    """Polls `condition` until it is true and returns what it gave; a generous bound, not a measurement."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{SECONDS_MAX} s were not enough (line {condition.__code__.co_firstlineno})")
    return result
