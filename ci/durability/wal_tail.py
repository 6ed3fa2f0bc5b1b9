"""Copies of a killed broker's data with a damaged WAL: each serves a prefix, or refuses and names the place."""

import hashlib
import random
import shutil
import subprocess
import time

from ledger import Ledger, end_offsets, parse_value, read_ranges
from kill9 import SMALL_SEGMENTS
from server import Failed, check
from wal_files import flushes_of_shard
from workload import Committer, committed_offsets, create_topics, start_senders

from confluent_kafka import Producer

TOPICS = {"orders": (3, SMALL_SEGMENTS), "events": (2, SMALL_SEGMENTS)}


def flip(flush, position, chance):
    with flush.path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << chance.randrange(8))]))


def overwrite(flush, position, data):
    with flush.path.open("r+b") as file:
        file.seek(position)
        file.write(data)


# Each damages the WAL of one shard and says what it did. `flushes` are those of the shard, oldest first.


def flip_last_flush(flushes, chance):
    last = flushes[-1]
    position = last.position + chance.randrange(48)
    flip(last, position, chance)
    return f"a bit in the header of the last flush, byte {position}"


def tear_last_flush(flushes, chance):
    last = flushes[-1]
    keep = chance.randrange(0, last.length, 512)
    overwrite(last, last.position + keep, bytes(last.length - keep))
    return f"the last flush after {keep} of {last.length} bytes"


def tear_last_flush_inside(flushes, chance):
    """Sectors in the middle of the last flush were not written."""
    last = flushes[-1]
    at = chance.randrange(0, last.length, 512)
    overwrite(last, last.position + at, chance.randbytes(512))
    return f"512 bytes of the last flush at {at} of {last.length}"


def cut_last_flushes(flushes, chance):
    """As if the newest flushes had never been written, which an honest disk never does; it must not crash."""
    count = min(chance.randint(1, 40), len(flushes) - 1)
    for flush in flushes[-count:]:
        overwrite(flush, flush.position, bytes(flush.length))
    return f"the last {count} flushes"


def truncate_file(flushes, chance):
    last = flushes[-1]
    length = chance.randint(last.position, last.position + last.length)
    with last.path.open("r+b") as file:
        file.truncate(length)
    return f"the file ends at {length}, inside the last flush at {last.position}"


def flip_earlier_flush(flushes, chance):
    flush = chance.choice(flushes[len(flushes) // 2 : -1])
    position = flush.position + chance.randrange(48)
    flip(flush, position, chance)
    return f"a bit of flush {flush.sequence} of {flushes[-1].sequence}, byte {position}"


def flip_anywhere(flushes, chance):
    flush = chance.choice(flushes)
    position = flush.position + chance.randrange(flush.length)
    flip(flush, position, chance)
    return f"a bit of flush {flush.sequence} of {flushes[-1].sequence}, byte {position}"


def zero_earlier_blocks(flushes, chance):
    flush = chance.choice(flushes[:-1])
    overwrite(flush, flush.position, bytes(4096))
    return f"the first block of flush {flush.sequence} of {flushes[-1].sequence}"


def garbage_behind_end(flushes, chance):
    last = flushes[-1]
    room = last.path.stat().st_size - last.position - last.length
    length = min(room, 1 << chance.randrange(1, 20))
    overwrite(last, last.position + last.length, chance.randbytes(length))
    return f"{length} bytes of garbage behind the end"


def repeat_flush_behind_end(flushes, chance):
    """An old flush stands again where the next one belongs, as in a file that was copied or misdirected."""
    last, old = flushes[-1], chance.choice(flushes)
    data = old.path.read_bytes()[old.position : old.position + old.length]
    room = last.path.stat().st_size - last.position - last.length
    overwrite(last, last.position + last.length, data[: room - room % 4096])
    return f"a copy of flush {old.sequence} behind the end"


def empty_last_file(flushes, chance):
    last = flushes[-1]
    with last.path.open("r+b") as file:
        file.truncate(0)
    return f"{last.path.name} is empty"


TAIL_DAMAGES = [
    flip_last_flush, tear_last_flush, tear_last_flush_inside, truncate_file, garbage_behind_end, repeat_flush_behind_end
]  # fmt: skip
OTHER_DAMAGES = [cut_last_flushes, flip_earlier_flush, flip_anywhere, zero_earlier_blocks, empty_last_file]
# After these nothing but the last flush is missing, as after a loss of power: the broker must start.
MUST_START = {flip_last_flush, tear_last_flush, tear_last_flush_inside, garbage_behind_end, repeat_flush_behind_end}
# These take away what was acknowledged and leave evidence of it.
MUST_REFUSE = {truncate_file, flip_earlier_flush, zero_earlier_blocks, empty_last_file}


def fingerprint(folder):
    """Name, size and content of every file, but for the lock, which names the process."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "lock":
            found[str(path.relative_to(folder))] = (path.stat().st_size, hashlib.blake2b(path.read_bytes()).digest())
    return found


def prepare(context, chance):
    """A data directory of a killed broker, and the ledger of what its clients know."""
    server = context.server("original", shards=2)
    server.start()
    create_topics(server.bootstrap, TOPICS)
    ledger = Ledger((topic, number) for topic, (count, _) in TOPICS.items() for number in range(count))
    senders = start_senders(server.bootstrap, ledger, chance, pace_bytes=2_000_000)
    committer = Committer(server.bootstrap, ledger)
    committer.start()
    while ledger.acknowledged_count() < 4000 or not committer.acknowledged_commits:
        time.sleep(0.05)
        server.check_runs()
    server.kill()
    acknowledged = ledger.snapshot()
    # Everything that ever got an offset, acknowledged or not.
    server.start()
    for sender in senders:
        sender.stopping.set()
        sender.join()
        sender.producer.purge()
    committer.finish()
    server.kill()
    return server, ledger, acknowledged, committer


def history(context, copy):
    """What an undamaged copy serves: for each partition its records by offset."""
    return serve(context.server("history", data=copy, shards=2).start(), None)


def serve(server, partitions):
    """Reads everything: offsets without gaps from the log's start."""
    partitions = partitions or [(topic, number) for topic, (count, _) in TOPICS.items() for number in range(count)]
    bounds = end_offsets(server.bootstrap, partitions)
    found = {partition: {} for partition in partitions}

    def on_record(partition, message):
        found[partition][message.offset()] = parse_value(message.value())

    read_ranges(server.bootstrap, bounds, on_record)
    return found


def check_writable(server, found):
    """After recovery new records go behind those that are left."""
    delivered = []
    producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all", "message.timeout.ms": 20_000})
    for topic, number in found:
        producer.produce(topic, b"new:0:6:", partition=number, on_delivery=lambda e, m: delivered.append((e, m)))
    check(producer.flush(20) == 0, "a recovered broker acknowledges nothing")
    for error, message in delivered:
        partition = (message.topic(), message.partition())
        check(error is None, f"producing to {partition} after recovery fails: {error}")
        behind = len(found[partition])
        check(message.offset() == behind, f"{partition}: the new record has offset {message.offset()}, not {behind}")


def check_prefix(found, whole):
    for partition, records in found.items():
        known = whole[partition]
        for offset, record in records.items():
            check(
                known.get(offset) == record, f"{partition} offset {offset} is {record}, it was {known.get(offset)}"
            )


def try_damaged(server, damage, whole, committer):
    """Starts on damaged data; returns whether it served."""
    before = fingerprint(server.data)
    server.spawn()
    try:
        started = server.wait_ready()
    except Failed:
        raise Failed("it neither answers nor ends") from None
    if not started:
        code = server.process.wait()
        server.process = None
        line = server.last_line()
        check(0 < code < 128, f"it ended with code {code}: {line}")
        check(".wal" in line and "byte " in line, f"the refusal names no file and position: {line}")
        check(fingerprint(server.data) == before, "the refused data directory was changed")
        check(damage not in MUST_START, f"it refuses a torn tail: {line}")
        return False
    check(damage not in MUST_REFUSE, "it starts, although acknowledged data is missing")
    found = serve(server, list(whole))
    check_prefix(found, whole)
    committed = committed_offsets(server.bootstrap, list(whole))
    for partition, offset in committed.items():
        sent = committer.sent[partition]
        check(offset in sent, f"{partition}: the group stands at {offset}, which it never committed")
    check_writable(server, found)
    server.kill()
    # And once more from what it has written itself since.
    server.start()
    for partition, (_, end) in end_offsets(server.bootstrap, list(whole)).items():
        check(end == len(found[partition]) + 1, f"{partition} ends at {end} after the next start")
    server.kill()
    return True


def wal_tail(context):
    chance = random.Random(context.seed + 2)
    original, ledger, acknowledged, committer = prepare(context, chance)
    copy = context.folder / "copy"
    subprocess.run(["cp", "-r", original.data, copy], check=True)
    whole = history(context, copy)
    context.servers[-1].end()
    shutil.rmtree(copy)
    for partition, records in acknowledged.items():
        for offset, record in records.items():
            check(whole[partition].get(offset) == record, f"{partition} offset {offset} is not {record}")
    served = refused = 0
    variants = max(context.rounds or 24, 20)
    for variant in range(variants):
        damages = TAIL_DAMAGES if variant % 3 < 2 else OTHER_DAMAGES
        damage = damages[(variant // 3 * 2 + variant % 3 if variant % 3 < 2 else variant // 3) % len(damages)]
        subprocess.run(["cp", "-r", original.data, copy], check=True)
        shard = chance.choice(sorted((copy / "wal").glob("shard-*")))
        done = damage(flushes_of_shard(shard), chance)
        server = context.server(f"variant-{variant}", data=copy, shards=2)
        try:
            if try_damaged(server, damage, whole, committer):
                served += 1
                context.note(f"{damage.__name__} ({shard.name}, {done}): served")
            else:
                refused += 1
                context.note(f"{damage.__name__} ({shard.name}, {done}): refused")
        except Failed as failed:
            raise Failed(f"variant {variant}, {damage.__name__} ({shard.name}, {done}): {failed}") from None
        finally:
            server.end()
        shutil.rmtree(copy)
    context.note(f"{variants} damaged copies: {served} served a prefix, {refused} refused")
