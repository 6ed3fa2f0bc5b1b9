"""The broker is killed again and again while clients go on: nothing acknowledged may change."""

import random
import time

from ledger import Ledger, check_idempotent, read_back, tail_starts
from server import check
from workload import Committer, check_commits, create_topics, start_senders

SMALL_SEGMENTS = {"segment.bytes": "1048576"}
TOPICS = {"orders": (4, SMALL_SEGMENTS), "events": (3, SMALL_SEGMENTS)}
TAIL_RECORDS = 300
# More than one WAL's worth, and how long a slow machine may take to send it.
LARGE_BYTES = 640 * 1024 * 1024
LARGE_SECONDS_MAX = 600


def prepare(context, name, shards):
    # A group that forms anew waits for company, by default longer than the time between two kills.
    server = context.server(name, shards=shards, settings=["group.initial.rebalance.delay.ms=0"])
    server.start()
    create_topics(server.bootstrap, TOPICS)
    ledger = Ledger((topic, number) for topic, (count, _) in TOPICS.items() for number in range(count))
    return server, ledger


def kill_and_start(server, chance):
    """Kills, and kills some of the starts too."""
    server.kill()
    kills = 1
    for odds in (0.4, 0.3):
        if chance.random() < odds:
            server.spawn()
            time.sleep(chance.uniform(0.0, 0.25))
            server.kill()
            kills += 1
    server.start()
    return kills


def finish(server, ledger, senders, committer):
    """Everything is delivered, and a full read-back agrees with every acknowledgement and every read."""
    for sender in senders:
        sender.finish()
    committer.finish()
    ledger.check_errors()
    read_back(server.bootstrap, ledger)
    check_idempotent(ledger, {sender.name for sender in senders if sender.name.startswith("idempotent")})
    check_commits(server.bootstrap, committer.snapshot(), committer)
    # Every record of every producer was acknowledged, so each must have been read.
    seen = {record for offsets in ledger.seen.values() for record in offsets.values()}
    for sender in senders:
        missing = [number for number in range(sender.sequence) if (sender.name, number) not in seen]
        check(not missing, f"{sender.name}: {len(missing)} records are lost, the first is {missing[:1]}")


def rounds(context, server, ledger, chance, senders, committer, count, seconds):
    kills = 0
    for number in range(count):
        time.sleep(chance.uniform(*seconds))
        before = committer.snapshot()
        starts = tail_starts(ledger, TAIL_RECORDS)
        kills += kill_and_start(server, chance)
        check_commits(server.bootstrap, before, committer)
        read_back(server.bootstrap, ledger, {} if number % 7 == 6 else starts)
        context.note(f"round {number + 1}: {ledger.acknowledged_count()} records acknowledged, {kills} kills")
    return kills


def kill9(context):
    chance = random.Random(context.seed)
    server, ledger = prepare(context, "kill9", shards=2)
    senders = start_senders(server.bootstrap, ledger, chance, pace_bytes=1_500_000)
    committer = Committer(server.bootstrap, ledger)
    committer.start()
    kills = rounds(context, server, ledger, chance, senders, committer, context.rounds or 20, (0.05, 1.2))
    finish(server, ledger, senders, committer)
    check(committer.acknowledged_commits > 0, "no commit was ever acknowledged")
    # One more start, from files that were closed in order.
    check(server.stop() == 0, "the stop failed")
    server.start()
    read_back(server.bootstrap, ledger)
    check(server.stop() == 0, "the stop failed")
    context.note(f"{ledger.acknowledged_count()} records, {kills} kills, {committer.acknowledged_commits} commits")


def kill9_large(context):
    """More than one WAL's worth of bytes through one shard, so that its files are recycled between the kills."""
    chance = random.Random(context.seed + 1)
    server, ledger = prepare(context, "kill9-large", shards=1)
    senders = start_senders(
        server.bootstrap, ledger, chance, pace_bytes=8_000_000, length=lambda chance: chance.randint(20_000, 200_000)
    )
    committer = Committer(server.bootstrap, ledger)
    committer.start()
    deadline = time.monotonic() + LARGE_SECONDS_MAX
    kills = 0
    while (total := sum(sender.bytes for sender in senders)) < LARGE_BYTES:
        check(time.monotonic() < deadline, f"only {total / 1e6:.0f} MB were sent within {LARGE_SECONDS_MAX} s")
        time.sleep(chance.uniform(0.5, 2.5))
        before = committer.snapshot()
        starts = tail_starts(ledger, 20)
        kills += kill_and_start(server, chance)
        check_commits(server.bootstrap, before, committer)
        read_back(server.bootstrap, ledger, starts)
        ledger.check_errors()
    finish(server, ledger, senders, committer)
    context.note(f"{total / 1e6:.0f} MB, {ledger.acknowledged_count()} records, {kills} kills")
    check(server.stop() == 0, "the stop failed")
