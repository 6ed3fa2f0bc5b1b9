"""The checks are checked: each anomaly that is planted into a good history must be found, and the good one must pass."""

from confluent_kafka import Producer

from ledger import Ledger, check_idempotent, parse_value, read_back, value_of
from server import Failed, check
from workload import Committer, check_commits, committed_offsets, create_topics

PARTITION = ("checked", 0)
RECORDS = 20


def must_fail(name, function, *arguments):
    try:
        function(*arguments)
    except Failed:
        return
    raise Failed(f"{name} is not found")


def good_ledger():
    ledger = Ledger([PARTITION])
    for offset in range(RECORDS):
        ledger.on_acknowledged(PARTITION, offset, ("checked", offset))
    return ledger


def planted(offset, record):
    """A good ledger in which one acknowledgement was another."""
    ledger = good_ledger()
    ledger.acknowledged[PARTITION][offset] = record
    return ledger


def seen(sequences):
    ledger = Ledger([PARTITION])
    for offset, sequence in enumerate(sequences):
        ledger.on_seen(PARTITION, offset, ("checked", sequence))
    return ledger


def conflicting():
    ledger = good_ledger()
    ledger.on_seen(PARTITION, 3, ("checked", 4))
    return ledger


def checker(context):
    server = context.server("checker")
    server.start()
    create_topics(server.bootstrap, {"checked": (1, {})})
    producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all"})
    for sequence in range(RECORDS):
        producer.produce("checked", value_of("checked", sequence, 100), partition=0)
        check(producer.flush(30) == 0, "a record is not delivered")

    read_back(server.bootstrap, good_ledger())
    must_fail("a lost record", read_back, server.bootstrap, planted(RECORDS, ("checked", RECORDS)))
    must_fail("a replaced record", read_back, server.bootstrap, planted(5, ("checked", 99)))
    must_fail("an offset with two records", read_back, server.bootstrap, conflicting())

    check_idempotent(seen([0, 1, 2, 5]), {"checked"})
    must_fail("a duplicate", check_idempotent, seen([0, 1, 1, 2]), {"checked"})
    must_fail("a late duplicate", check_idempotent, seen([0, 1, 2, 0]), {"checked"})
    must_fail("a swap", check_idempotent, seen([0, 2, 1]), {"checked"})

    changed = bytearray(value_of("checked", 7, 100))
    changed[50] ^= 1
    must_fail("a changed value", parse_value, bytes(changed))
    must_fail("a cut value", parse_value, value_of("checked", 7, 100)[:-1])

    check_committer(server)
    check(server.stop() == 0, "the stop failed")


def check_committer(server):
    committer = Committer(server.bootstrap, Ledger([PARTITION]))
    committer.start()
    while not committer.acknowledged_commits:
        committer.join(0.05)
        committer.ledger.check_errors()
    committer.finish()
    good = committer.snapshot()
    check(committed_offsets(server.bootstrap, good) == {PARTITION: RECORDS}, "the group has not committed the end")
    check_commits(server.bootstrap, good, committer)
    for wrong in (RECORDS - 1, RECORDS + 1, -1001):
        committer.possible = {PARTITION: {wrong}}
        must_fail("a wrong commit", check_commits, server.bootstrap, committer.snapshot(), committer)
