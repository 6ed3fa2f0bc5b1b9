"""Finds the flushes in WAL files, independently of the broker: where they stand decides what damage means."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\xc7ChrWAL\xa7"
HEADER = struct.Struct("<8sHHIIIQQQ")
BLOCK_BYTES = 4096


@dataclass
class Flush:
    path: Path
    position: int
    length: int
    file_sequence: int
    sequence: int


def flushes_of(path):
    """The intact flushes of one file that belong to it, in order of position."""
    content = path.read_bytes()
    own = int(path.stem, 16)
    found = []
    for position in range(0, len(content) - HEADER.size + 1, BLOCK_BYTES):
        if not content.startswith(MAGIC, position):
            continue
        _, _, _, crc, payload_bytes, _, file_sequence, sequence, _ = HEADER.unpack_from(content, position)
        end = position + HEADER.size + payload_bytes
        header = content[position : position + HEADER.size]
        stored = zlib.crc32(header[16:], zlib.crc32(header[:12], zlib.crc32(content[position + HEADER.size : end])))
        if file_sequence == own and end <= len(content) and stored == crc:
            length = -(-(HEADER.size + payload_bytes) // BLOCK_BYTES) * BLOCK_BYTES
            found.append(Flush(path, position, length, file_sequence, sequence))
    return found


def flushes_of_shard(folder):
    """All flushes of a shard's WAL, oldest first."""
    found = [flush for path in sorted(folder.glob("*.wal")) for flush in flushes_of(path)]
    return sorted(found, key=lambda flush: flush.sequence)
