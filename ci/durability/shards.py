"""Any number of shards: every connection serves every partition, answers keep their order, restarts change the number."""

import random
import threading
import time

import wire
from kill9 import SMALL_SEGMENTS
from ledger import Ledger, check_idempotent, read_back
from server import check
from workload import Committer, check_commits, create_topics, start_senders

TOPICS = {"wide": (12, SMALL_SEGMENTS), "narrow": (1, {})}
PIPELINED = 200
CONNECTIONS = 24


def pipelined_requests(chance, connection):
    """Requests of different weight for partitions of all shards, with what to check of each answer."""
    sent = []
    for number in range(PIPELINED):
        partition = chance.randrange(TOPICS["wide"][0])
        kind = chance.choice(["metadata", "list", "produce", "fetch", "versions"])
        if kind == "metadata":
            sent.append((kind, connection.send_request(wire.METADATA, 1, wire.metadata_body(["wide"])), partition))
        elif kind == "list":
            body = wire.list_offsets_body("piped", partition, wire.EARLIEST)
            sent.append((kind, connection.send_request(wire.LIST_OFFSETS, 1, body), partition))
        elif kind == "produce":
            values = [f"piped-{number}".encode() * chance.randint(1, 200)]
            body = wire.produce_body("piped", partition, wire.batch_of(values))
            sent.append((kind, connection.send_request(wire.PRODUCE, 7, body), partition))
        elif kind == "fetch":
            body = wire.fetch_body("piped", partition, 0, wait_ms=chance.choice([0, 20]))
            sent.append((kind, connection.send_request(wire.FETCH, 4, body), partition))
        else:
            sent.append((kind, connection.send_request(wire.API_VERSIONS, 0), partition))
    return sent


def check_answer(kind, answer, produced, partition):
    if kind == "metadata":
        error, partitions, led = wire.metadata_leaders(answer)
        check((error, partitions, led) == (0, 12, 12), f"metadata of wide: error {error}, {led} of {partitions} led")
    elif kind == "list":
        error, _, offset = wire.list_offsets_result(answer)
        check((error, offset) == (0, 0), f"ListOffsets: error {error}, offset {offset}")
    elif kind == "produce":
        error, offset = wire.produce_result(answer)
        check(error == 0, f"Produce: error {error}")
        last = produced.setdefault(partition, -1)
        check(offset > last, f"pipelined batches to {partition} got offsets {last} and then {offset}")
        produced[partition] = offset
    elif kind == "fetch":
        error, _, _ = wire.fetch_result(answer)
        check(error == 0, f"Fetch: error {error}")


def pipeline(port, seed, failures):
    """On one connection many requests are sent without waiting; a thread sends while this one receives."""
    try:
        with wire.Connection(port) as connection:
            sent = []
            chance = random.Random(seed)
            sender = threading.Thread(target=lambda: sent.extend(pipelined_requests(chance, connection)))
            sender.start()
            answers = [connection.receive() for _ in range(PIPELINED)]
            sender.join()
            produced = {}
            for (kind, expected, partition), (received, answer) in zip(sent, answers, strict=True):
                check(received == expected, f"the answer to {received} came where that to {expected} belongs")
                check_answer(kind, answer, produced, partition)
    except Exception as failure:
        failures.append(f"{failure!r}")


def pipeline_all(server, chance):
    failures = []
    threads = [
        threading.Thread(target=pipeline, args=(server.port, chance.random(), failures)) for _ in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not failures, f"{len(failures)} of {CONNECTIONS} connections failed: {failures[:1]}")


def shards(context):
    chance = random.Random(context.seed + 3)
    ledger = Ledger((topic, number) for topic, (count, _) in TOPICS.items() for number in range(count))
    server = context.server("shards", shards=2)
    committer, senders = None, []
    idempotent = set()
    for turn, count in enumerate([2, 3, 5, 1, 4]):
        server.shards = count
        server.start()
        if turn == 0:
            create_topics(server.bootstrap, TOPICS | {"piped": (12, {})})
        else:
            read_back(server.bootstrap, ledger)
            check_commits(server.bootstrap, possible, committer)
        senders = start_senders(server.bootstrap, ledger, chance, suffix=f"-turn-{turn}", pace_bytes=1_000_000)
        committer = Committer(server.bootstrap, ledger)
        if turn:
            committer.possible = possible
        committer.start()
        pipeline_all(server, chance)
        commits = committer.acknowledged_commits
        deadline = time.monotonic() + 30
        while committer.acknowledged_commits <= commits + 1:
            check(time.monotonic() < deadline, f"the group commits nothing with {count} shards")
            time.sleep(0.05)
        for sender in senders:
            sender.finish()
            if sender.name.startswith("idempotent"):
                idempotent.add(sender.name)
        committer.finish()
        ledger.check_errors()
        possible = committer.snapshot()
        # In turn by a stop and by a kill, so that both leave what another number of shards takes up.
        if turn % 2:
            server.kill()
        else:
            check(server.stop() == 0, "the stop failed")
        context.note(f"{count} shards: {ledger.acknowledged_count()} records")
    server.shards = 2
    server.start()
    read_back(server.bootstrap, ledger)
    check_idempotent(ledger, idempotent)
    check_commits(server.bootstrap, possible, committer)
    context.note(f"{ledger.acknowledged_count()} records over 2, 3, 5, 1, 4 and 2 shards")
