"""What every Python client must be able to do, written once against the interface in client.py.

    scenarios.py SUITE ADAPTER       with the broker's HOST:PORT in the environment as BOOTSTRAP
"""

import faulthandler
import functools
import importlib
import os
import sys
import threading
import time
import traceback
from dataclasses import replace

from client import SECONDS_MAX, Record, until

CODECS = ("gzip", "snappy", "lz4", "zstd")


def equal(actual, expected, what):
    assert actual == expected, f"{what}: expected {expected!r:.500}, got {actual!r:.500}"


def numbered(count, partition=0, first=0, start=None):
    """`count` records, one second apart if `start` is given."""
    return [
        Record(partition, None, start and start + 1000 * n, b"key-%d" % n, b"value-%d " % n + b"abc" * 40)
        for n in range(first, first + count)
    ]


def hour_ago():
    return int(time.time() - 3600) * 1000


def check_offsets(placed, partitions, first=0):
    """The broker gave every partition's records the offsets from `first` on, without a gap."""
    for partition in range(partitions):
        offsets = [record.offset for record in placed if record.partition == partition]
        equal(offsets, list(range(first, first + len(offsets))), f"offsets of partition {partition}")


def check_records(client, actual, expected, since):
    """Equal in all fields; a timestamp the client chose lies between `since` and now."""
    if not client.sets_timestamps or any(record.timestamp is None for record in expected):
        for record in actual:
            assert since <= record.timestamp <= time.time() * 1000 + 1000, f"timestamp {record.timestamp}"
        actual = [replace(record, timestamp=None) for record in actual]
        expected = [replace(record, timestamp=None) for record in expected]
    actual, expected = sorted(actual, key=place), sorted(expected, key=place)
    equal(list(map(place, actual)), list(map(place, expected)), "places")
    for one, other in zip(actual, expected):
        equal(one, other, f"record {place(other)}")


def place(record):
    return record.partition, record.offset


def admin(client, name):
    client.create_topic(name, 3)
    records = [record for partition in range(3) for record in numbered(2, partition)]
    check_offsets(client.produce(name, records), 3)
    assert name in client.topics(), "a created topic is not listed"
    equal(client.partition_count(name), 3, "partitions")
    client.delete_topic(name)
    until(lambda: name not in client.topics())


def roundtrip(client, name):
    """Keys, values and headers of every kind come back as they were, from both partitions."""
    since, start = int(time.time() * 1000) - 1000, hour_ago() if client.sets_timestamps else None
    client.create_topic(name, 2)
    records = [
        Record(0, None, start, b"key", b"value", (("a", b"1"), ("b", b"\x01\xff"), ("a", b"2"))),
        Record(0, None, start and start + 7, None, b"no key"),
        Record(1, None, start and start + 1, b"tombstone", None, (("why", b"deleted"),)),
        Record(1, None, start and start + 2, b"bytes", bytes(range(1, 256)), (("empty", b""),)),
        Record(1, None, start and start + 3, "schlüssel".encode(), b"x" * 100_000),
    ]
    if client.empty_bytes:
        records.append(Record(0, None, start and start + 8, b"", b""))
    if client.null_headers:
        records.append(Record(0, None, start and start + 9, b"key", b"value", (("null", None),)))
    placed = client.produce(name, records)
    check_offsets(placed, 2)
    read = [record for p in (0, 1) for record in client.read(name, p, 0, sum(r.partition == p for r in placed))]
    check_records(client, read, placed, since)


def codec(client, name, codec):
    since = int(time.time() * 1000) - 1000
    client.create_topic(name, 1)
    placed = client.produce(name, numbered(500), codec)
    check_offsets(placed, 1)
    check_records(client, client.read(name, 0, 0, 500), placed, since)
    check_records(client, client.read(name, 0, 321, 100), placed[321:421], since)


def idempotent(client, name):
    since = int(time.time() * 1000) - 1000
    client.create_topic(name, 1)
    placed = client.produce(name, numbered(1000), idempotent=True)
    check_offsets(placed, 1)
    check_records(client, client.read(name, 0, 0, 1000), placed, since)


def commit_resume(client, name):
    since = int(time.time() * 1000) - 1000
    client.create_topic(name, 1)
    placed = client.produce(name, numbered(10))
    group = f"group-{name}"
    check_records(client, client.read_and_commit(group, name, 4), placed[:4], since)
    check_records(client, client.read_and_commit(group, name, 6), placed[4:], since)


def rebalance(client, name):
    """A second member takes half, every record goes to its partition's owner, then one leaves and the other takes all."""
    since = int(time.time() * 1000) - 1000
    client.create_topic(name, 4)
    group, everything = f"group-{name}", {0, 1, 2, 3}
    members = [client.member(group, name)]
    received = [[], []]

    def poll():
        for records, member in zip(received, members):
            records.extend(member.poll())

    until(lambda: poll() or members[0].assignment() == everything)
    members.append(client.member(group, name))
    until(lambda: poll() or sorted(len(member.assignment()) for member in members) == [2, 2])
    owned = [member.assignment() for member in members]
    equal(owned[0] | owned[1], everything, "partitions of both members")

    placed = client.produce(name, [record for partition in range(4) for record in numbered(5, partition)])
    check_offsets(placed, 4)
    until(lambda: poll() or sum(map(len, received)) >= 20)
    check_records(client, received[0] + received[1], placed, since)
    for partitions, records, member in zip(owned, received, members):
        equal({record.partition for record in records}, partitions, "partitions of a member's records")
        member.commit({partition: 5 for partition in partitions})

    members.pop(1 if client.forgets_lost_partitions else 0).close()
    received[0].clear()
    until(lambda: poll() or members[0].assignment() == everything)
    more = client.produce(name, [numbered(1, partition)[0] for partition in range(4)])
    check_offsets(more, 4, first=5)
    until(lambda: poll() or len(received[0]) >= 4)
    check_records(client, received[0], more, since)
    members[0].close()


def offsets_for_times(client, name):
    client.create_topic(name, 2)
    start = hour_ago()
    placed = client.produce(name, [*numbered(10, 0, start=start), *numbered(10, 1, start=start + 500)])
    for partition, timestamp, offset in [
        (0, start - 5000, 0),
        (0, start, 0),
        (0, start + 2500, 3),
        (1, start + 2500, 2),
        (1, start + 9500, 9),
        (0, start + 9001, None),
    ]:
        found = client.offset_for_time(name, partition, timestamp)
        equal(found, offset, f"offset of partition {partition} at start + {timestamp - start} ms")
    offset = client.offset_for_time(name, 0, start + 2500)
    check_records(client, client.read(name, 0, offset, 7), placed[3:10], start)


SCENARIOS = {
    "admin": admin,
    "roundtrip": roundtrip,
    **{f"codec-{name}": lambda client, topic, name=name: codec(client, topic, name) for name in CODECS},
    "idempotent": idempotent,
    "commit-resume": commit_resume,
    "rebalance": rebalance,
    "offsets-for-times": offsets_for_times,
}


def run_all(suite, scenarios):
    """Runs {name: function of a topic name}, prints a line for each, and ends the process."""
    failed = False
    run = f"{suite}-{time.time_ns()}"

    def stuck(scenario):
        faulthandler.dump_traceback(all_threads=True)
        print(f"FAIL {suite} {scenario}: no end after {2 * SECONDS_MAX} s", flush=True)
        os._exit(1)

    for scenario, check in scenarios.items():
        timer = threading.Timer(2 * SECONDS_MAX, stuck, [scenario])
        timer.start()
        try:
            check(f"{run}-{scenario}")
        except Exception as error:
            failed = True
            traceback.print_exc()
            print(f"FAIL {suite} {scenario}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print(f"ok {suite} {scenario}", flush=True)
        timer.cancel()
    sys.stderr.flush()
    os._exit(failed)  # A client that failed may have threads that would not end.


def main(suite, adapter):
    client = importlib.import_module(f"{adapter}_adapter").Adapter(os.environ["BOOTSTRAP"])
    run_all(suite, {name: functools.partial(check, client) for name, check in SCENARIOS.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
