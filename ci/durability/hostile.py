"""Hostile clients: they get an error or lose their connection; memory stays bounded and nobody else notices."""

import random
import resource
import socket
import struct
import threading
import time

import wire
from server import answers, check, missing
from workload import create_topics

MEMORY_MIB_MAX = 512
# The most array elements that a request may have (protocol: REQUEST_ELEMENTS_MAX).
ELEMENTS_MAX = 250_000
# Far above what it takes: a machine that does other things at the same time is no fault of the broker.
DISTURBANCE_SECONDS_MAX = 60
# Three thousand connections, and what is open beside them.
OPEN_FILES_MIN = 4096
PARTITIONS = 4
INT_MAX = (1 << 31) - 1

CORRUPT_MESSAGE, MESSAGE_TOO_LARGE, UNSUPPORTED_VERSION, UNSUPPORTED_FORMAT, INVALID_RECORD = 2, 10, 35, 43, 87


class Bystander(threading.Thread):
    """A well-behaved client on one connection: it produces a record and reads it back, again and again."""

    def __init__(self, port, partition):
        super().__init__(name=f"bystander-{partition}", daemon=True)
        self.connection = wire.Connection(port, timeout=DISTURBANCE_SECONDS_MAX)
        self.partition = partition
        self.turns = 0
        self.slowest = 0.0
        self.failure = None
        self.stopping = threading.Event()

    def run(self):
        try:
            while not self.stopping.wait(0.01):
                started = time.monotonic()
                self.turn()
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.turns += 1
        except Exception as failure:
            self.failure = repr(failure)

    def turn(self):
        value = f"bystander {self.partition} {self.turns}".encode()
        body = wire.produce_body("bystander", self.partition, wire.batch_of([value]))
        error, offset = wire.produce_result(self.connection.call(wire.PRODUCE, 7, body))
        check(error == 0, f"Produce fails with {error}")
        check(offset == self.turns, f"the record has offset {offset}, not {self.turns}")
        answer = self.connection.call(wire.FETCH, 4, wire.fetch_body("bystander", self.partition, offset))
        error, _, records = wire.fetch_result(answer)
        check(error == 0 and value in records, f"Fetch fails with {error} or without the record")


class Target:
    """The broker under attack, its bystanders, and what must hold between any two attacks."""

    def __init__(self, context):
        self.context = context
        self.server = context.server("hostile", shards=2)
        self.server.start()
        self.port = self.server.port
        self.chance = random.Random(context.seed + 4)
        create_topics(self.server.bootstrap, {"bystander": (PARTITIONS, {}), "target": (PARTITIONS, {})})
        self.bystanders = [Bystander(self.port, partition) for partition in range(PARTITIONS)]
        for bystander in self.bystanders:
            bystander.start()
        self.slowest = {}
        self.peaks = {}

    def attack(self, name, function):
        self.server.reset_memory_peak()
        for bystander in self.bystanders:
            bystander.slowest = 0.0
        turns = [bystander.turns for bystander in self.bystanders]
        started = time.monotonic()
        try:
            function(self)
            self.check_serves(turns)
        except Exception as failure:
            if self.server.process.poll() is not None:
                self.server.check_runs()
            failure.args = (f"{name}: {failure.args[0] if failure.args else failure!r}",)
            raise
        self.peaks[name] = self.server.memory_peak_mib()
        self.slowest[name] = max(bystander.slowest for bystander in self.bystanders)
        self.context.note(
            f"{name}: {time.monotonic() - started:.1f} s, peak {self.peaks[name]:.0f} MiB, "
            f"a bystander waited at most {self.slowest[name] * 1000:.0f} ms"
        )
        check(self.peaks[name] < MEMORY_MIB_MAX, f"{name}: the broker's memory grew to {self.peaks[name]:.0f} MiB")
        waited = self.slowest[name]
        check(waited < DISTURBANCE_SECONDS_MAX, f"{name}: a bystander waited {waited:.1f} s")

    def check_serves(self, turns):
        """New connections are served, and the old ones of the bystanders go on."""
        self.server.check_runs()
        check(answers(self.port), "a new connection is not served")
        deadline = time.monotonic() + DISTURBANCE_SECONDS_MAX
        for bystander, before in zip(self.bystanders, turns, strict=True):
            while bystander.turns < before + 2 and bystander.failure is None:
                self.server.check_runs()
                check(time.monotonic() < deadline, f"{bystander.name} stands still")
                time.sleep(0.01)
            check(bystander.failure is None, f"{bystander.name}: {bystander.failure}")

    def finish(self):
        for bystander in self.bystanders:
            bystander.stopping.set()
            bystander.join()
            check(bystander.failure is None, f"{bystander.name}: {bystander.failure}")


def send_and_drain(port, data, seconds=20):
    """Sends bytes on a connection of its own, ends its sending side, and waits until the broker closes."""
    with wire.Connection(port) as connection:
        try:
            connection.send(data)
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The broker closed first.
        check(connection.is_closed(seconds), f"the broker keeps a connection that ended after {data[:40]!r}")


def must_close(port, data):
    """The broker closes the connection by itself."""
    with wire.Connection(port) as connection:
        connection.send(data)
        check(connection.is_closed(20), f"the broker keeps the connection after {data[:40]!r}")


def unknown_api_keys(target):
    for key in (-1, 93, 999, 32767, -32768):
        must_close(target.port, wire.request(key, 0, 1))


def unsupported_versions(target):
    for key, (_, newest) in api_ranges(target.port).items():
        for version in (-1, newest + 1, 32767):
            if key == wire.API_VERSIONS:
                with wire.Connection(target.port) as connection:
                    answer = connection.call(key, version)
                    check(struct.unpack_from(">h", answer)[0] == UNSUPPORTED_VERSION, f"ApiVersions {version}: {answer[:8]}")
            else:
                must_close(target.port, wire.request(key, version, 1, bytes(20)))


def api_ranges(port):
    with wire.Connection(port) as connection:
        answer = connection.call(wire.API_VERSIONS, 0)
    (count,) = struct.unpack_from(">i", answer, 2)
    ranges = [struct.unpack_from(">hhh", answer, 6 + 6 * number) for number in range(count)]
    return {key: (oldest, newest) for key, oldest, newest in ranges}


def impossible_lengths(target):
    for length in (-1, -(1 << 31), INT_MAX, 104_857_601, 0, 1, 7):
        must_close(target.port, struct.pack(">i", length) + bytes(max(0, min(length, 16))))


def claimed_counts(target):
    """Every API in every version, with bodies that claim as much as a number can."""
    flexible_null = b"\0"
    bodies = [
        struct.pack(">i", INT_MAX) * 8,
        struct.pack(">h", 32767) * 8,
        b"\xff\xff\xff\xff\x0f" * 8,
        b"\xff\xff\xff\xff\x07" * 8,
        b"\xff" * 64,
        b"\x80" * 64,
        b"\0" * 64,
        b"\x7f" * 64,
        b"\2" * 200,
    ]
    for key, (oldest, newest) in sorted(api_ranges(target.port).items()):
        for version in range(oldest, newest + 1):
            frames = []
            for body in [*bodies, target.chance.randbytes(100)]:
                frames += [wire.request(key, version, 1, body), wire.request(key, version, 1, flexible_null + body)]
            for frame in frames:
                send_and_drain(target.port, frame)


def tagged_fields(target):
    ascending = b"".join(wire.unsigned_varint(tag) + b"\0" for tag in range(500_000))
    header_end = struct.pack(">hhih", wire.METADATA, 12, 1, -1)
    for tags in (
        wire.unsigned_varint(500_000) + ascending,
        wire.unsigned_varint((1 << 32) - 1) + ascending[:1000],
        b"\1\0" + wire.unsigned_varint(INT_MAX) + bytes(10),
        b"\1\0" + wire.unsigned_varint(8_000_000) + bytes(8_000_000),
        b"\xff" * 20,
    ):
        frame = header_end + tags + b"\1\0\0\0"
        send_and_drain(target.port, struct.pack(">i", len(frame)) + frame)
    # Topics that each carry tagged fields of their own.
    topic = bytes(16) + b"\2x" + b"\2" + b"\5\1a" + b"\6\2bc"
    frame = header_end + b"\0" + wire.unsigned_varint(200_001) + topic * 200_000 + b"\0\0\0"
    send_and_drain(target.port, struct.pack(">i", len(frame)) + frame)


def half_frames_and_silence(target):
    """They stay open, silent, while the bystanders go on."""
    connections = []
    for number in range(300):
        connection = wire.Connection(target.port)
        connection.send(struct.pack(">i", [1 << 20, 50_000_000, 20][number % 3]) + bytes(10))
        connections.append(connection)
    time.sleep(1)
    for connection in connections:
        connection.socket.close()


def large_half_frames(target):
    """More bytes of unfinished requests than the broker may hold."""
    connections = []
    block = bytes(1 << 20)
    for _ in range(30):
        connection = wire.Connection(target.port, timeout=0.3)
        connections.append(connection)
        try:
            connection.send(struct.pack(">i", 100_000_000) + struct.pack(">hhih", wire.PRODUCE, 7, 1, -1))
            for _ in range(40):
                connection.send(block)
        except OSError:
            pass  # The broker reads no more for now, or closed.
    time.sleep(2)
    for connection in connections:
        connection.socket.close()


def bad_batches(target):
    good = wire.batch_of([b"value"])
    cases = {
        "a wrong CRC": (wire.batch_of([b"value"], crc=1), {CORRUPT_MESSAGE}),
        "a cut batch": (good[:-3], {CORRUPT_MESSAGE, INVALID_RECORD}),
        "half a header": (good[:30], {CORRUPT_MESSAGE, INVALID_RECORD}),
        "nothing": (b"", {CORRUPT_MESSAGE, INVALID_RECORD}),
        "magic 1": (wire.batch_of([b"value"], magic=1), {UNSUPPORTED_FORMAT, CORRUPT_MESSAGE}),
        "magic 3": (wire.batch_of([b"value"], magic=3), {CORRUPT_MESSAGE, INVALID_RECORD, UNSUPPORTED_FORMAT}),
        "a length of 2^31-1": (wire.batch_of([b"value"], length=INT_MAX), {CORRUPT_MESSAGE, MESSAGE_TOO_LARGE}),
        "a length of -1": (wire.batch_of([b"value"], length=-1), {CORRUPT_MESSAGE}),
        "2^31-1 records": (wire.batch(wire.record(0, b"value"), INT_MAX), {CORRUPT_MESSAGE, INVALID_RECORD}),
        "-1 records": (wire.batch(wire.record(0, b"value"), -1), {CORRUPT_MESSAGE, INVALID_RECORD}),
        "one record of two": (wire.batch(wire.record(0, b"value"), 2), {CORRUPT_MESSAGE, INVALID_RECORD}),
        "two batches": (good + good, {CORRUPT_MESSAGE, INVALID_RECORD}),
        "bytes behind the batch": (good + b"more", {CORRUPT_MESSAGE, INVALID_RECORD}),
        "an offset delta of 2^31-1": (
            wire.batch(wire.record(0, b"value"), 1, last_offset_delta=INT_MAX), {CORRUPT_MESSAGE, INVALID_RECORD}
        ),
        "a record that claims 2^31-1 bytes": (
            wire.batch(wire.varint(INT_MAX) + bytes(9), 1), {CORRUPT_MESSAGE, INVALID_RECORD}
        ),
        "a value that claims 2^31-1 bytes": (
            wire.batch(wire.varint(9) + b"\0\0\0\1" + wire.varint(INT_MAX) + b"\0", 1), {CORRUPT_MESSAGE, INVALID_RECORD}
        ),
        "codec 7": (wire.batch(wire.record(0, b"value"), 1, codec=7), {CORRUPT_MESSAGE, INVALID_RECORD, 76}),
        "a control batch": (wire.batch_of([b"value"], attributes=0x20), {CORRUPT_MESSAGE, INVALID_RECORD}),
        "more than message.max.bytes": (wire.batch_of([bytes(1_100_000)]), {MESSAGE_TOO_LARGE}),
    }  # fmt: skip
    with wire.Connection(target.port) as connection:
        for name, (records, expected) in cases.items():
            answer = connection.call(wire.PRODUCE, 7, wire.produce_body("target", 0, records))
            error, _ = wire.produce_result(answer)
            check(error in expected, f"{name} is answered with error {error}")
        answer = connection.call(wire.LIST_OFFSETS, 1, wire.list_offsets_body("target", 0, wire.LATEST))
        check(wire.list_offsets_result(answer)[2] == 0, "a bad batch was stored")


def bombs(target):
    """Small batches that inflate to gigabytes: looking into them by time must stop early."""
    made = {
        "gzip": (1, wire.gzip_bomb(900 << 20)),
        "snappy": (2, wire.snappy_claim()),
        "lz4": (3, wire.lz4_bomb(200 << 20)),
        "zstd": (4, wire.zstd_bomb(4 << 30)),
    }
    with wire.Connection(target.port, timeout=60) as connection:
        for partition, (name, (codec, compressed)) in enumerate(made.items()):
            check(len(compressed) < 1_000_000, f"the {name} bomb is too large itself")
            for timestamp, max_timestamp in ((1000, 5000), (1000, 0)):
                records = wire.batch(compressed, 1, codec=codec, timestamp=timestamp, max_timestamp=max_timestamp)
                answer = connection.call(wire.PRODUCE, 7, wire.produce_body("target", partition, records))
                error, _ = wire.produce_result(answer)
                # The broker may take a compressed batch as it is where it need not look into it.
                expected = {CORRUPT_MESSAGE, INVALID_RECORD, MESSAGE_TOO_LARGE}
                check(error in expected | ({0} if max_timestamp else set()), f"the {name} bomb is answered with {error}")
        for _ in range(5):
            for partition in range(len(made)):
                connection.send_request(wire.LIST_OFFSETS, 1, wire.list_offsets_body("target", partition, 3000))
        for _ in range(5 * len(made)):
            connection.receive()


def many_elements(target):
    """As many array elements as a request may have are answered; the connection of one with more is closed."""
    for count, is_answered in ((ELEMENTS_MAX, True), (ELEMENTS_MAX + 1, False), (1_000_000, False)):
        # Version 4 says that none of the topics is to be created.
        names = wire.array([wire.text(f"t{number}") for number in range(count)])
        for key, version, body in (
            (wire.METADATA, 4, names + b"\0"),
            # The topic is an element too.
            (wire.LIST_OFFSETS, 1, struct.pack(">i", -1) + partitions_to_look_up(count - 1)),
            (wire.FETCH, 4, struct.pack(">iiiib", -1, 0, 1, 1 << 20, 0) + partitions_to_fetch(count - 1)),
        ):
            was_answered = answered_or_closed(target.port, key, version, body)
            check(was_answered == is_answered, f"API {key} with {count} elements: answered is {was_answered}")


def answered_or_closed(port, key, version, body):
    """The broker may refuse the request altogether, but not leave it. Says whether it answered."""
    with wire.Connection(port, timeout=60) as connection:
        try:
            connection.call(key, version, body)
        except ConnectionError:
            return False
        return True


def partitions_to_look_up(count):
    asked = array_of(count, lambda number: struct.pack(">iq", number, -1))
    return wire.array([wire.text("target") + asked])


def partitions_to_fetch(count):
    asked = array_of(count, lambda number: struct.pack(">iqi", number % PARTITIONS, 0, 1 << 20))
    return wire.array([wire.text("target") + asked])


def array_of(count, item):
    return struct.pack(">i", count) + b"".join(item(number) for number in range(count))


def many_topics_to_create(target):
    """Version 1 asks for each topic to be created, as brokers do by default."""
    names = wire.array([wire.text(f"new{number}") for number in range(ELEMENTS_MAX)])
    answered_or_closed(target.port, wire.METADATA, 1, names)


def garbage(target):
    lines = [b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)]
    for data in lines + [target.chance.randbytes(target.chance.randrange(1, 70_000)) for _ in range(300)]:
        send_and_drain(target.port, data)
    # A sane length in front, so that the garbage is decoded.
    for _ in range(300):
        frame = target.chance.randbytes(target.chance.randrange(1, 3000))
        head = struct.pack(">hhi", target.chance.randrange(0, 76), target.chance.randrange(0, 12), 1)
        send_and_drain(target.port, struct.pack(">i", len(head) + len(frame)) + head + frame)


def three_thousand_connections(target):
    connections = [wire.Connection(target.port) for _ in range(3000)]
    for connection in connections:
        connection.send_request(wire.API_VERSIONS, 0)
    for connection in connections:
        connection.receive()
    check(target.server.open_files() > 3000, "the broker has not accepted them all")
    for connection in connections:
        connection.socket.close()


def connect_storm(target):
    """They leave at once, with a reset, some in the middle of a request."""
    reset = struct.pack("ii", 1, 0)
    for number in range(6000):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.connect(("127.0.0.1", target.port))
        if number % 3 == 1:
            client.send(wire.request(wire.API_VERSIONS, 0, 1))
        elif number % 3 == 2:
            client.send(wire.request(wire.METADATA, 1, 1, wire.metadata_body(None))[:9])
        client.close()
    deadline = time.monotonic() + 20
    while target.server.open_files() > 300:
        check(time.monotonic() < deadline, f"{target.server.open_files()} files stay open after the storm")
        time.sleep(0.05)


def slow_readers(target):
    """They ask for far more than they read."""
    value = target.chance.randbytes(900_000)
    records = wire.batch_of([value])
    with wire.Connection(target.port) as connection:
        for _ in range(60):
            connection.send_request(wire.PRODUCE, 7, wire.produce_body("target", 3, records))
            error, _ = wire.produce_result(connection.receive()[1])
            check(error == 0, f"Produce fails with {error}")
    readers = []
    asked = wire.request(wire.FETCH, 4, 1, wire.fetch_body("target", 3, 10, max_bytes=50_000_000))
    for _ in range(60):
        reader = wire.Connection(target.port, receive_buffer=4096)
        reader.socket.setblocking(False)
        try:
            for _ in range(40):
                reader.send(asked)
        except BlockingIOError:
            pass
        readers.append(reader)
    time.sleep(3)
    for reader in readers:
        reader.socket.close()


ATTACKS = [
    unknown_api_keys, unsupported_versions, impossible_lengths, claimed_counts, tagged_fields, half_frames_and_silence,
    large_half_frames, bad_batches, bombs, many_elements, garbage, three_thousand_connections, connect_storm,
    slow_readers, many_topics_to_create,
]  # fmt: skip


def hostile(context):
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files != resource.RLIM_INFINITY and open_files < OPEN_FILES_MIN:
        missing(f"only {open_files} files may be open at once, {OPEN_FILES_MIN} are needed: raise the limit (ulimit -Hn)")
    target = Target(context)
    for attack in ATTACKS:
        if not context.only or attack.__name__ == context.only:
            target.attack(attack.__name__, attack)
    target.finish()
    turns = sum(bystander.turns for bystander in target.bystanders)
    worst = max(target.peaks, key=target.peaks.get)
    slowest = max(target.slowest, key=target.slowest.get)
    check(target.server.stop() == 0, "the stop failed")
    context.note(
        f"{len(target.peaks)} attacks; most memory {target.peaks[worst]:.0f} MiB ({worst}); longest wait of a bystander "
        f"{target.slowest[slowest] * 1000:.0f} ms ({slowest}) in {turns} turns"
    )
