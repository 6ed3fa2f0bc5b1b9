"""A small Kafka client on a bare socket: requests in the oldest versions that have what is needed, and raw bytes."""

import socket
import struct
import zlib

from server import check

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS = 0, 1, 2, 3, 18
LATEST, EARLIEST = -1, -2

CRC32C_TABLE = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    CRC32C_TABLE.append(number)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(number):
    """A zigzag varint."""
    number = number << 1 ^ number >> 63
    return unsigned_varint(number & 0xFFFFFFFFFFFFFFFF)


def unsigned_varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def record(offset_delta, value, key=None, timestamp_delta=0):
    body = b"\0" + varint(timestamp_delta) + varint(offset_delta)
    body += varint(-1) if key is None else varint(len(key)) + key
    body += varint(-1) if value is None else varint(len(value)) + value
    body += varint(0)
    return varint(len(body)) + body


def batch(records, count, codec=0, timestamp=1000, max_timestamp=None, crc=None, **header):
    """A record batch (magic 2) around `records`, which are compressed already if `codec` says so."""
    attributes = header.get("attributes", codec)
    max_timestamp = timestamp if max_timestamp is None else max_timestamp
    covered = struct.pack(
        ">hiqqqhii", attributes, header.get("last_offset_delta", count - 1), timestamp, max_timestamp,
        -1, -1, -1, count,
    ) + records  # fmt: skip
    crc = crc32c(covered) if crc is None else crc
    length = header.get("length", len(covered) + 9)
    return struct.pack(">qiibI", 0, length, 0, header.get("magic", 2), crc) + covered


def batch_of(values, **header):
    return batch(b"".join(record(number, value) for number, value in enumerate(values)), len(values), **header)


def gzip_of(data):
    """One gzip member."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return deflate.compress(data) + deflate.flush()


def gzip_bomb(inflated_bytes):
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    parts = [deflate.compress(block) for _ in range(inflated_bytes >> 20)]
    return b"".join(parts) + deflate.flush()


def zstd_bomb(inflated_bytes):
    """A frame of run-length blocks, four bytes for each 128 KiB."""
    block = struct.pack("<I", (128 * 1024) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", 1 << 3 | 1 << 1 | 1)[:3] + b"\0"
    # No content size, no checksum, a window of 128 KiB.
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (inflated_bytes // (128 * 1024)) + last


def lz4_bomb(inflated_bytes):
    """A frame of blocks that each repeat one byte for 64 KiB."""
    matched = 64 * 1024 - 1 - 5
    extra = matched - 4 - 15
    block = b"\x1f\0" + b"\x01\0" + b"\xff" * (extra // 255) + bytes([extra % 255]) + b"\x50" + bytes(5)
    blocks = (struct.pack("<I", len(block)) + block) * (inflated_bytes // (64 * 1024))
    return b"\x04\x22\x4d\x18\x60\x40\x82" + blocks + bytes(4)


def snappy_claim():
    """One raw block that claims 2 GiB and holds nothing."""
    return unsigned_varint((1 << 31) - 1) + b"\0"


def text(value):
    return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value)) + value.encode()


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def request(api_key, version, correlation_id, body=b"", client_id=None):
    """A frame with a request header of version 1."""
    head = struct.pack(">hhi", api_key, version, correlation_id) + text(client_id)
    return struct.pack(">i", len(head) + len(body)) + head + body


def metadata_body(topics):
    """Version 1. None asks for all topics."""
    return struct.pack(">i", -1) if topics is None else array([text(topic) for topic in topics])


def list_offsets_body(topic, partition, timestamp):
    """Version 1."""
    asked = array([struct.pack(">iq", partition, timestamp)])
    return struct.pack(">i", -1) + array([text(topic) + asked])


def produce_body(topic, partition, records, acks=-1, timeout_ms=10_000):
    """Version 7: the first that may carry zstd."""
    data = array([struct.pack(">ii", partition, len(records)) + records])
    return text(None) + struct.pack(">hi", acks, timeout_ms) + array([text(topic) + data])


def fetch_body(topic, partition, offset, max_bytes=1 << 20, wait_ms=0, min_bytes=1):
    """Version 4."""
    asked = array([struct.pack(">iqi", partition, offset, max_bytes)])
    return struct.pack(">iiiib", -1, wait_ms, min_bytes, max_bytes, 0) + array([text(topic) + asked])


def metadata_leaders(answer):
    """Version 1: (topic error, number of partitions, partitions with a leader) of the only topic asked for."""
    at = 0
    (brokers,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(brokers):
        (host,) = struct.unpack_from(">h", answer, at + 4)
        at += 6 + host + 4
        (rack,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack, 0)
    at += 8
    error, name = struct.unpack_from(">hh", answer, at)
    at += 4 + name + 1
    (partitions,) = struct.unpack_from(">i", answer, at)
    at += 4
    led = 0
    for _ in range(partitions):
        _, _, leader, replicas = struct.unpack_from(">hiii", answer, at)
        at += 14 + 4 * replicas
        (in_sync,) = struct.unpack_from(">i", answer, at)
        at += 4 + 4 * in_sync
        led += leader >= 0
    return error, partitions, led


def produce_result(answer):
    """Version 7, one partition: error and base offset."""
    (name,) = struct.unpack_from(">h", answer, 4)
    _, error, offset = struct.unpack_from(">ihq", answer, 4 + 2 + name + 4)
    return error, offset


def list_offsets_result(answer):
    """Version 1, one partition: error, timestamp, offset."""
    (name,) = struct.unpack_from(">h", answer, 4)
    return struct.unpack_from(">hqq", answer, 4 + 2 + name + 4 + 4)


def fetch_result(answer):
    """Version 4, one partition: error, high watermark and the records as bytes."""
    (name,) = struct.unpack_from(">h", answer, 8)
    at = 8 + 2 + name + 4 + 4
    error, high_watermark, _, aborted = struct.unpack_from(">hqqi", answer, at)
    at += 22 + 16 * max(aborted, 0)
    (length,) = struct.unpack_from(">i", answer, at)
    return error, high_watermark, answer[at + 4 : at + 4 + max(length, 0)]


class Connection:
    """One socket to the broker. Answers are taken in the order in which they come."""

    def __init__(self, port, timeout=30, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.correlation_id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_request(self, api_key, version, body=b"", **options):
        self.correlation_id += 1
        self.send(request(api_key, version, self.correlation_id, body, **options))
        return self.correlation_id

    def receive_exact(self, count):
        """Fails with ConnectionError when the broker closes first."""
        parts, left = [], count
        while left:
            part = self.socket.recv(min(left, 1 << 20))
            if not part:
                raise ConnectionError("closed by the broker")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def receive(self):
        """The next answer: its correlation id and its body."""
        (length,) = struct.unpack(">i", self.receive_exact(4))
        check(0 <= length < 1 << 28, f"an answer claims {length} bytes")
        answer = self.receive_exact(length)
        return struct.unpack(">i", answer[:4])[0], answer[4:]

    def call(self, api_key, version, body=b"", **options):
        sent = self.send_request(api_key, version, body, **options)
        received, answer = self.receive()
        check(received == sent, f"answer {received} came for request {sent}")
        return answer

    def is_closed(self, timeout=30):
        """Whether the broker closes, after whatever it still sends."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True
