"""The disk fills up: produce fails, fetch goes on, and produce works again when there is space, without a restart."""

import contextlib
import os
import shutil
import subprocess
import time

from confluent_kafka import KafkaException, TopicPartition

import wire
from ledger import Ledger, end_offsets, read_back, value_of
from server import Failed, Skipped, check
from workload import admin_client, create_topics

DISK_MIB = 768
RECORD_BYTES = 300_000
STORAGE_ERROR = 56
# Retriable: what a client may see instead while the broker still hopes for space.
TIMED_OUT = 7
ANSWER_SECONDS_MAX = 30
RECOVERY_SECONDS_MAX = 30


@contextlib.contextmanager
def small_disk(folder):
    """A file system of a known size, in memory, which is gone afterwards."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], stderr=subprocess.PIPE, text=True)
    if mounted.returncode != 0:
        raise Skipped(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        try:
            os.close(os.open(folder / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        except OSError as error:
            raise Skipped(f"no direct I/O on tmpfs with this kernel: {error}") from None
        (folder / "probe").unlink()
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path):
    """Takes all space that is left."""
    with path.open("wb", buffering=0) as file:
        for block in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))


class Writer:
    """Produces one record at a time and keeps the answers."""

    def __init__(self, server, ledger):
        self.server = server
        self.ledger = ledger
        self.sequence = 0
        self.slowest = 0.0

    def write(self):
        """Sends the next record; returns Kafka's error code."""
        record = ("writer", self.sequence)
        topic, partition = self.ledger.partitions[self.sequence % len(self.ledger.partitions)]
        self.sequence += 1
        records = wire.batch_of([value_of(*record, RECORD_BYTES)])
        started = time.monotonic()
        with wire.Connection(self.server.port, timeout=ANSWER_SECONDS_MAX) as connection:
            try:
                body = wire.produce_body(topic, partition, records, timeout_ms=5_000)
                error, offset = wire.produce_result(connection.call(wire.PRODUCE, 7, body))
            except TimeoutError:
                raise Failed(f"Produce is not answered within {ANSWER_SECONDS_MAX} s while the disk is full") from None
            except ConnectionError:
                self.server.check_runs()
                raise Failed("Produce loses its connection while the disk is full") from None
        self.slowest = max(self.slowest, time.monotonic() - started)
        if error == 0:
            self.ledger.on_acknowledged((topic, partition), offset, record)
        return error

    def write_until_refused(self):
        """Returns the error codes of three refusals in a row."""
        refusals = []
        for _ in range(1000):
            error = self.write()
            refusals = refusals + [error] if error else []
            if len(refusals) == 3:
                return refusals
        raise Failed("a full disk refuses nothing")


def log_starts(server, ledger):
    return {partition: start for partition, (start, _) in end_offsets(server.bootstrap, ledger.partitions).items()}


def delete_records(server, ledger):
    """Makes room by DeleteRecords, which must work on a full disk: all but the last records of each partition go."""
    ends = end_offsets(server.bootstrap, ledger.partitions)
    wanted = [TopicPartition(*partition, end - 5) for partition, (_, end) in ends.items()]
    client = admin_client(server.bootstrap)
    for partition, future in client.delete_records(wanted, request_timeout=30).items():
        try:
            future.result(30)
        except KafkaException as error:
            raise Failed(f"DeleteRecords of {partition} fails on a full disk: {error}") from None
    for partition, offsets in ledger.acknowledged.items():
        for table in (offsets, ledger.seen[partition]):
            for offset in [offset for offset in table if offset < ends[partition][1] - 5]:
                del table[offset]


def full_disk(context):
    disk = context.folder / "disk"
    with small_disk(disk):
        try:
            fill_and_free(context, disk)
        except Failed:
            context.close()
            shutil.copytree(disk / "data", context.folder / "data", ignore_dangling_symlinks=True)
            raise
        finally:
            context.close()


def fill_and_free(context, disk):
    server = context.server("full-disk", data=disk / "data", shards=1)
    server.start()
    create_topics(server.bootstrap, {"full": (2, {"segment.bytes": "1048576"})})
    ledger = Ledger([("full", 0), ("full", 1)])
    writer = Writer(server, ledger)
    for _ in range(20):
        check(writer.write() == 0, "a record is refused while there is space")
    ballast = disk / "ballast"
    seen = set()
    accepted = 0
    for turn in range(3):
        fill(ballast)
        refusals = writer.write_until_refused()
        seen.update(refusals)
        check(set(refusals) <= {STORAGE_ERROR, TIMED_OUT}, f"a full disk is answered with errors {refusals}")
        read_back(server.bootstrap, ledger)
        accepted = ledger.acknowledged_count()
        if turn == 1:
            # It must come up again even now, and still serve what it has.
            server.kill()
            server.start()
            read_back(server.bootstrap, ledger)
        if turn < 2:
            ballast.unlink()
        else:
            delete_records(server, ledger)
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while writer.write() != 0:
            check(time.monotonic() < deadline, f"nothing is taken {RECOVERY_SECONDS_MAX} s after space came back")
            time.sleep(0.1)
        for _ in range(20):
            check(writer.write() == 0, "a record is refused although space came back")
        read_back(server.bootstrap, ledger, log_starts(server, ledger))
        context.note(f"turn {turn + 1}: {writer.sequence} records sent")
    server.kill()
    server.start()
    read_back(server.bootstrap, ledger, log_starts(server, ledger))
    check(server.stop() == 0, "the stop failed")
    names = {STORAGE_ERROR: "KAFKA_STORAGE_ERROR", TIMED_OUT: "REQUEST_TIMED_OUT"}
    context.note(
        f"refused with {', '.join(sorted(names[error] for error in seen))}, after {writer.slowest:.1f} s at most; "
        f"{accepted} of {writer.sequence} records taken, none lost"
    )
