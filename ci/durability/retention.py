"""Old records go, by size, by age and on request; what is left stays, also over a restart."""

import time

from confluent_kafka import Producer, TopicPartition

import wire
from ledger import Ledger, end_offsets, read_back, value_of
from server import Skipped, check
from workload import admin_client, create_topics

SECONDS_MAX = 30
OFFSET_OUT_OF_RANGE = 1
SEGMENT_BYTES = 1_048_576
RETENTION_BYTES = 4 * SEGMENT_BYTES
TOPICS = {
    "sized": (1, {"segment.bytes": str(SEGMENT_BYTES), "retention.bytes": str(RETENTION_BYTES)}),
    "aged": (1, {"segment.bytes": str(SEGMENT_BYTES), "retention.ms": "1000"}),
    "cut": (1, {"segment.bytes": str(SEGMENT_BYTES)}),
}


def produce(server, ledger, topic, count, first=0):
    producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all", "message.timeout.ms": 60_000})
    for sequence in range(first, first + count):
        record = (topic, sequence)

        def on_delivery(error, message, record=record):
            if error is None:
                ledger.on_acknowledged((topic, 0), message.offset(), record)
            else:
                ledger.error(f"{record} is not delivered: {error}")

        producer.produce(topic, value_of(*record, 20_000), partition=0, on_delivery=on_delivery)
        producer.poll(0)
    check(producer.flush(60) == 0, f"records of {topic} are not delivered")
    ledger.check_errors()


def starts_and_ends(server):
    return {topic: bounds for (topic, _), bounds in end_offsets(server.bootstrap, [(t, 0) for t in TOPICS]).items()}


def wait_until(server, condition, what):
    """Waits until `condition` of (log start, end) of each topic holds; log starts never go back meanwhile."""
    deadline = time.monotonic() + SECONDS_MAX
    before = {topic: 0 for topic in TOPICS}
    while True:
        bounds = starts_and_ends(server)
        for topic, (start, end) in bounds.items():
            check(before[topic] <= start <= end, f"the log start of {topic} went from {before[topic]} to {start}")
            before[topic] = start
        if condition(bounds):
            return bounds
        check(time.monotonic() < deadline, f"{what} does not happen within {SECONDS_MAX} s: {bounds}")
        time.sleep(0.05)


def check_below_start(server, topic, start):
    """Offsets below the log start are refused as such, and the start itself is not."""
    with wire.Connection(server.port) as connection:
        for offset, expected in ((0, OFFSET_OUT_OF_RANGE), (start - 1, OFFSET_OUT_OF_RANGE), (start, 0)):
            error, _, _ = wire.fetch_result(connection.call(wire.FETCH, 4, wire.fetch_body(topic, 0, offset)))
            check(error == expected, f"fetching {topic} at {offset}, log start {start}, is answered with {error}")


def stored_bytes(server):
    """The bytes of all segments of the partitions in question, but not of their indexes."""
    return sum(path.stat().st_size for path in (server.data / "groups").rglob("*.log"))


def segments_of(server, topic):
    """The segment files of a topic's partitions."""
    groups = (server.data / "groups").iterdir()
    meant = [group for group in groups if f"topic: {topic}\n" in (group / "partition.metadata").read_text()]
    check(meant, f"there is no folder of {topic}")
    return [path for group in meant for path in group.iterdir() if path.name != "partition.metadata"]


def wait_until_gone(server, topic):
    """An expired partition has no segment, though nothing is written to it any more."""
    deadline = time.monotonic() + SECONDS_MAX
    while segments := segments_of(server, topic):
        check(time.monotonic() < deadline, f"files of {topic} stay: {[path.name for path in segments]}")
        time.sleep(0.05)


def forget_below(ledger, bounds):
    """What lies below the log start was removed rightly."""
    for (topic, number), offsets in ledger.acknowledged.items():
        start = bounds[topic][0]
        for table in (offsets, ledger.seen[(topic, number)]):
            for offset in [offset for offset in table if offset < start]:
                del table[offset]


def check_rest(server, ledger, bounds):
    forget_below(ledger, bounds)
    read_back(server.bootstrap, ledger, {(topic, 0): start for topic, (start, _) in bounds.items()})
    for topic, (start, _) in bounds.items():
        check_below_start(server, topic, start)


def retention(context):
    server = context.server("retention", shards=2, settings=["log.retention.check.interval.ms=200"])
    if server.driver:
        raise Skipped("the driver takes no settings")
    server.start()
    create_topics(server.bootstrap, TOPICS)
    ledger = Ledger((topic, 0) for topic in TOPICS)
    for topic in TOPICS:
        produce(server, ledger, topic, 800)
    client = admin_client(server.bootstrap)
    for future in client.delete_records([TopicPartition("cut", 0, 333)]).values():
        check(future.result(30).low_watermark == 333, "DeleteRecords answers another log start")

    def happened(bounds):
        return bounds["sized"][0] > 0 and bounds["aged"][0] == bounds["aged"][1] and bounds["cut"][0] == 333

    wait_until(server, happened, "retention")
    # By size: whole segments go, as long as what is left is not below the bound.
    bounds = wait_until(
        server,
        lambda bounds: (bounds["sized"][1] - bounds["sized"][0]) * 20_000 <= RETENTION_BYTES + 2 * SEGMENT_BYTES,
        "retention by size",
    )
    left = (bounds["sized"][1] - bounds["sized"][0]) * 20_100
    check(left >= RETENTION_BYTES - SEGMENT_BYTES, f"only about {left} bytes of {RETENTION_BYTES} are left")
    check_rest(server, ledger, bounds)
    deadline = time.monotonic() + SECONDS_MAX
    # What is kept by offset, and up to a segment that still holds a record of it; of the expired topic nothing.
    kept = sum((end - start) * 20_100 for start, end in bounds.values()) + 2 * 1.1 * SEGMENT_BYTES
    while stored_bytes(server) > kept:
        check(time.monotonic() < deadline, f"files stay: {stored_bytes(server)} bytes for {kept:.0f}")
        time.sleep(0.05)
    wait_until_gone(server, "aged")
    for turn, end_broker in enumerate([server.kill, server.stop]):
        end_broker()
        server.start()
        after = starts_and_ends(server)
        for topic, (start, end) in after.items():
            check(start >= bounds[topic][0], f"the log start of {topic} went back to {start} over a restart")
            check(end == bounds[topic][1], f"{topic} ends at {end}, not at {bounds[topic][1]}, after a restart")
        check(not segments_of(server, "aged"), "segments of an expired topic are back after a restart")
        for topic in ("sized", "cut"):
            produce(server, ledger, topic, 10, first=1000 + 10 * turn)
        bounds = starts_and_ends(server)
        check_rest(server, ledger, bounds)
        # The empty log goes on where it ended.
        end = bounds["aged"][1]
        produce(server, ledger, "aged", 10, first=1000 + 10 * turn)
        bounds = wait_until(
            server, lambda bounds, end=end + 10: bounds["aged"] == (end, end), "retention of what came later"
        )
        wait_until_gone(server, "aged")
        forget_below(ledger, bounds)
    context.note(f"log starts {', '.join(f'{topic} {start} of {end}' for topic, (start, end) in bounds.items())}")
