//! The flush: the unit in which the WAL is written, valid as a whole or not at all.
//!
//! A flush starts at a multiple of [`BLOCK_BYTES`] with this header, its records follow without gaps, and
//! zeros fill it up to a multiple of [`BLOCK_BYTES`]. Integers are little-endian.
//!
//! | at | bytes | field |
//! |--|--|--|
//! | 0 | 8 | magic |
//! | 8 | 2 | format version |
//! | 10 | 2 | zero |
//! | 12 | 4 | CRC-32 over the payload as stored, then the header without this field |
//! | 16 | 4 | payload bytes |
//! | 20 | 4 | record count |
//! | 24 | 8 | sequence number of the file |
//! | 32 | 8 | sequence number of the flush, continuous over all files of the shard |
//! | 40 | 8 | mask |
//!
//! **No block of a flush but the first begins with the magic.** Payloads come from clients, and one
//! that carries a forged flush would make a torn tail look like damage before acknowledged data. So where
//! a payload would put the magic at the start of a block, the first eight bytes of each later block that
//! lie wholly in the payload are XORed with a non-zero mask. The rule also keeps the search for flushes
//! linear: two candidates never overlap.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use types::limits::{BLOCK_BYTES, WAL_FILE_BYTES};
use types::mutants::{Mutant, is_planted};

use super::record::{RECORD_HEAD_BYTES_MAX, Record, RecordNote, RecordRef};

/// The format that this crate writes and reads.
pub const FORMAT_VERSION: u16 = 1;

/// The bytes of a flush's header.
pub const FLUSH_HEADER_BYTES: usize = 48;

/// The largest payload of a flush: it must fit a WAL file.
pub const FLUSH_PAYLOAD_BYTES_MAX: usize = WAL_FILE_BYTES as usize - FLUSH_HEADER_BYTES;

const MAGIC: [u8; 8] = [0xc7, b'C', b'h', b'r', b'W', b'A', b'L', 0xa7];
const WORD_BYTES: usize = MAGIC.len();
const CRC_AT: usize = 12;
const CRC_END: usize = CRC_AT + 4;

/// Parts up to this size are copied next to their record's head: cheaper than a part of the gather list.
const INLINE_BYTES_MAX: usize = 128;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

const _: () = assert!(FLUSH_PAYLOAD_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(MAGIC[WORD_BYTES - 1] != 0, "padding must not complete the magic");
const _: () = assert!(BLOCK_BYTES.is_power_of_two() && FLUSH_HEADER_BYTES < BLOCK_BYTES);

/// A flush that is ready to be written.
#[derive(Clone, Debug)]
pub struct Flush {
    /// The bytes to write, in order; together `bytes` long, padding included.
    pub parts: Vec<Bytes>,
    /// A multiple of [`BLOCK_BYTES`].
    pub bytes: usize,
    /// The file that the flush must be written to.
    pub file_sequence: u64,
    /// The flush's own number.
    pub flush_sequence: u64,
    /// Its records without their parts, at least one, for [`FileLedger::on_flush`](super::FileLedger::on_flush) once the flush is durable.
    pub notes: Vec<RecordNote>,
}

/// Gathers the records of one flush. Owned by the shard that owns the WAL; lives from the moment a flush is
/// opened until it is handed to the driver.
///
/// All records of one Raft `Ready` belong in one flush: recovery checks that a group's commit index has
/// its entries and that its entries' terms have their hard state.
#[derive(Debug)]
pub struct FlushBuilder {
    file_sequence: u64,
    flush_sequence: u64,
    notes: Vec<RecordNote>,
    /// The header, then the heads and the small parts of all records.
    arena: BytesMut,
    /// Large parts, each with the length of the arena that stands before it.
    large_parts: Vec<(usize, Bytes)>,
    large_bytes: usize,
    checksum: crc32fast::Hasher,
}

impl FlushBuilder {
    /// Opens flush `flush_sequence` of the file with sequence number `file_sequence`.
    pub fn new(file_sequence: u64, flush_sequence: u64) -> Self {
        let mut arena = BytesMut::with_capacity(BLOCK_BYTES);
        arena.put_bytes(0, FLUSH_HEADER_BYTES);
        FlushBuilder {
            file_sequence,
            flush_sequence,
            notes: Vec::new(),
            arena,
            large_parts: Vec::new(),
            large_bytes: 0,
            checksum: crc32fast::Hasher::new(),
        }
    }

    /// Adds a record. Large parts are shared, not copied.
    ///
    /// The caller keeps the flush within [`FLUSH_PAYLOAD_BYTES_MAX`], by [`FlushBuilder::len_bytes_with`].
    pub fn push(&mut self, record: Record) {
        let bytes_before = self.payload_bytes();
        let bytes = record.encoded_bytes();
        assert!(bytes <= FLUSH_PAYLOAD_BYTES_MAX - bytes_before, "a flush must fit a WAL file");
        self.arena.reserve(RECORD_HEAD_BYTES_MAX);
        let head_at = self.arena.len();
        record.put_head(&mut self.arena);
        self.checksum.update(&self.arena[head_at..]);
        self.notes.push(record.note());
        match record {
            Record::Entry { context, data, .. } => {
                self.push_part(context);
                self.push_part(data);
            }
            Record::Checkpoint { state, .. } => self.push_part(state),
            Record::HardState { .. } | Record::Truncated { .. } | Record::GroupRemoved { .. } => {}
        }
        assert_eq!(self.payload_bytes(), bytes_before + bytes, "a record takes the bytes it promised");
    }

    fn push_part(&mut self, part: Bytes) {
        self.checksum.update(&part);
        if part.len() <= INLINE_BYTES_MAX {
            self.arena.extend_from_slice(&part);
        } else {
            self.large_bytes += part.len();
            self.large_parts.push((self.arena.len(), part));
        }
    }

    /// The size of the flush so far in bytes, padding included.
    pub fn len_bytes(&self) -> usize {
        padded(FLUSH_HEADER_BYTES + self.payload_bytes())
    }

    /// The size that the flush would have with records of so many [bytes](Record::encoded_bytes) in it, in bytes, padding
    /// included.
    pub fn len_bytes_with(&self, record_bytes: usize) -> usize {
        padded(FLUSH_HEADER_BYTES + self.payload_bytes() + record_bytes)
    }

    /// Whether there is nothing to write yet.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// The number of the flush being gathered.
    pub fn flush_sequence(&self) -> u64 {
        self.flush_sequence
    }

    /// The file that the flush is meant for.
    pub fn file_sequence(&self) -> u64 {
        self.file_sequence
    }

    fn payload_bytes(&self) -> usize {
        self.arena.len() - FLUSH_HEADER_BYTES + self.large_bytes
    }

    /// Closes the flush. It must not be empty.
    pub fn finish(mut self) -> Flush {
        assert!(!self.is_empty(), "an empty flush is never written");
        let payload_bytes = self.payload_bytes();
        let bytes = padded(FLUSH_HEADER_BYTES + payload_bytes);
        let mut header = Header {
            version: FORMAT_VERSION,
            payload_bytes: u32::try_from(payload_bytes).expect("push keeps the flush within a file"),
            record_count: u32::try_from(self.notes.len()).expect("push keeps the flush within a file"),
            file_sequence: self.file_sequence,
            flush_sequence: self.flush_sequence,
            mask: 0,
        };
        self.arena[..FLUSH_HEADER_BYTES].copy_from_slice(&header.encode(self.checksum.clone()));
        let mut parts = gather(self.arena.freeze(), self.large_parts);
        header.mask = choose_mask(&parts);
        if header.mask != 0 {
            parts = vec![mask_flush(&parts, &header)];
        }
        let padding = bytes - FLUSH_HEADER_BYTES - payload_bytes;
        if padding > 0 {
            parts.push(Bytes::from_static(&ZEROS[..padding]));
        }
        Flush {
            parts,
            bytes,
            file_sequence: self.file_sequence,
            flush_sequence: self.flush_sequence,
            notes: self.notes,
        }
    }
}

fn gather(arena: Bytes, large_parts: Vec<(usize, Bytes)>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(2 * large_parts.len() + 2);
    let mut taken = 0;
    for (arena_end, part) in large_parts {
        if arena_end > taken {
            parts.push(arena.slice(taken..arena_end));
            taken = arena_end;
        }
        parts.push(part);
    }
    if taken < arena.len() {
        parts.push(arena.slice(taken..));
    }
    parts
}

/// The smallest mask under which no block of the payload begins with the magic; 0 when none does anyway.
fn choose_mask(parts: &[Bytes]) -> u64 {
    let magic = u64::from_le_bytes(MAGIC);
    let mut is_forged = false;
    for_each_block_word(parts, |word| is_forged |= word == magic);
    if !is_forged {
        return 0;
    }
    let mut forbidden = Vec::new();
    for_each_block_word(parts, |word| forbidden.push(word ^ magic));
    forbidden.sort_unstable();
    forbidden.dedup();
    let mut mask = 0;
    for taken in forbidden {
        if taken != mask {
            break;
        }
        mask += 1;
    }
    mask
}

/// Calls `visit` with the first eight bytes of every block after the first, if they lie wholly in `parts`.
fn for_each_block_word(parts: &[Bytes], mut visit: impl FnMut(u64)) {
    let mut part_at = 0;
    let mut block_at = BLOCK_BYTES;
    for (number, part) in parts.iter().enumerate() {
        let part_end = part_at + part.len();
        while block_at < part_end {
            let rest = parts[number + 1..].iter().flat_map(|later| later.iter());
            let mut word = [0; WORD_BYTES];
            let filled = match part.get(block_at - part_at..block_at - part_at + WORD_BYTES) {
                Some(whole) => {
                    word.copy_from_slice(whole);
                    WORD_BYTES
                }
                None => {
                    let bytes = part[block_at - part_at..].iter().chain(rest);
                    word.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count()
                }
            };
            if filled == WORD_BYTES {
                visit(u64::from_le_bytes(word));
            }
            block_at += BLOCK_BYTES;
        }
        part_at = part_end;
    }
}

fn mask_flush(parts: &[Bytes], header: &Header) -> Bytes {
    let mut flat = parts.concat();
    apply_mask(&mut flat, header.mask);
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&flat[FLUSH_HEADER_BYTES..]);
    flat[..FLUSH_HEADER_BYTES].copy_from_slice(&header.encode(checksum));
    Bytes::from(flat)
}

/// Its own inverse. `flush` is header and payload, without padding.
fn apply_mask(flush: &mut [u8], mask: u64) {
    for block in flush.chunks_mut(BLOCK_BYTES).skip(1) {
        if let Some(word) = block.first_chunk_mut::<WORD_BYTES>() {
            *word = (u64::from_le_bytes(*word) ^ mask).to_le_bytes();
        }
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[derive(Clone, Copy, Debug)]
struct Header {
    version: u16,
    payload_bytes: u32,
    record_count: u32,
    file_sequence: u64,
    flush_sequence: u64,
    mask: u64,
}

impl Header {
    /// `checksum` has seen the payload.
    fn encode(&self, mut checksum: crc32fast::Hasher) -> [u8; FLUSH_HEADER_BYTES] {
        let mut header = [0; FLUSH_HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_slice(&MAGIC);
        out.put_u16_le(self.version);
        out.put_u16_le(0);
        out.put_u32_le(0);
        out.put_u32_le(self.payload_bytes);
        out.put_u32_le(self.record_count);
        out.put_u64_le(self.file_sequence);
        out.put_u64_le(self.flush_sequence);
        out.put_u64_le(self.mask);
        assert!(out.is_empty(), "the header has its fixed size");
        checksum.update(&header[..CRC_AT]);
        checksum.update(&header[CRC_END..]);
        header[CRC_AT..CRC_END].copy_from_slice(&checksum.finalize().to_le_bytes());
        header
    }

    /// `None` when the bytes do not begin with the magic. Nothing else is checked.
    fn decode(bytes: &[u8]) -> Option<Header> {
        let header = bytes.first_chunk::<FLUSH_HEADER_BYTES>()?;
        if header[..WORD_BYTES] != MAGIC {
            return None;
        }
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        Some(Header {
            version: u16_at(8),
            payload_bytes: u32_at(16),
            record_count: u32_at(20),
            file_sequence: u64_at(24),
            flush_sequence: u64_at(32),
            mask: u64_at(40),
        })
    }
}

/// A valid flush as it stands in a file.
#[derive(Clone, Debug)]
pub struct FlushView<'a> {
    /// Where it starts in the file, a multiple of [`BLOCK_BYTES`].
    pub position: usize,
    /// Its bytes with padding, a multiple of [`BLOCK_BYTES`].
    pub bytes: usize,
    /// The format it was written in; its records are readable only if this is [`FORMAT_VERSION`].
    pub version: u16,
    /// The file it was written for. Another number than that of the file it stands in marks it as stale:
    /// left from before the file was recycled.
    pub file_sequence: u64,
    /// Its number in the shard's sequence of flushes.
    pub flush_sequence: u64,
    /// Records that it claims to hold.
    pub record_count: u32,
    payload: Cow<'a, [u8]>,
}

impl<'a> FlushView<'a> {
    /// The valid flush that starts at `position` of a WAL file, if one does. Reads arbitrary bytes
    /// without panicking.
    pub fn at(content: &'a [u8], position: usize) -> Option<FlushView<'a>> {
        FlushView::at_if(content, position, |_, _| true)
    }

    /// As [`FlushView::at`], but reads the payload only if `wanted` likes what the header claims of file
    /// and flush sequence.
    pub(crate) fn at_if(
        content: &'a [u8],
        position: usize,
        wanted: impl FnOnce(u64, u64) -> bool,
    ) -> Option<FlushView<'a>> {
        let rest = content.get(position..)?;
        let header = Header::decode(rest)?;
        if !wanted(header.file_sequence, header.flush_sequence) {
            return None;
        }
        let unpadded = usize::try_from(header.payload_bytes).ok()?.checked_add(FLUSH_HEADER_BYTES)?;
        let bytes = unpadded.checked_next_multiple_of(BLOCK_BYTES)?;
        let blocks = rest.get(..bytes)?;
        // Checked before the checksum, so that checksums are never computed over overlapping ranges.
        if blocks.chunks(BLOCK_BYTES).skip(1).any(|block| block.starts_with(&MAGIC)) {
            return None;
        }
        let flush = &blocks[..unpadded];
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&flush[FLUSH_HEADER_BYTES..]);
        checksum.update(&flush[..CRC_AT]);
        checksum.update(&flush[CRC_END..FLUSH_HEADER_BYTES]);
        let is_whole = checksum.finalize().to_le_bytes() == flush[CRC_AT..CRC_END];
        if !is_whole && !is_planted(Mutant::AcceptTornFlush) {
            return None;
        }
        Some(FlushView {
            position,
            bytes,
            version: header.version,
            file_sequence: header.file_sequence,
            flush_sequence: header.flush_sequence,
            record_count: header.record_count,
            payload: unmasked_payload(flush, header.mask),
        })
    }

    /// The records of the flush; `None` when its payload is not the records that its header promises,
    /// although its checksum is right.
    pub fn records(&self) -> Option<Vec<RecordRef<'_>>> {
        let mut input = &self.payload[..];
        let mut records = Vec::new();
        while !input.is_empty() {
            records.push(RecordRef::decode(&mut input)?);
        }
        (records.len() == usize::try_from(self.record_count).ok()?).then_some(records)
    }
}

fn unmasked_payload(flush: &[u8], mask: u64) -> Cow<'_, [u8]> {
    if mask == 0 {
        return Cow::Borrowed(&flush[FLUSH_HEADER_BYTES..]);
    }
    let mut flat = flush.to_vec();
    apply_mask(&mut flat, mask);
    Cow::Owned(flat.split_off(FLUSH_HEADER_BYTES))
}

/// Every valid flush of a WAL file, stale ones included, at whatever block it starts.
pub fn flushes(content: &[u8]) -> impl Iterator<Item = FlushView<'_>> {
    flushes_if(content, 0, |_, _| true)
}

/// As [`flushes`], from `position` on and only where `wanted` likes the claimed file and flush sequence.
pub(crate) fn flushes_if<'a>(
    content: &'a [u8],
    position: usize,
    wanted: impl Fn(u64, u64) -> bool,
) -> impl Iterator<Item = FlushView<'a>> {
    let mut at = position;
    std::iter::from_fn(move || {
        while at < content.len() {
            let flush = FlushView::at_if(content, at, &wanted);
            at += flush.as_ref().map_or(BLOCK_BYTES, |flush| flush.bytes);
            if flush.is_some() {
                return flush;
            }
        }
        None
    })
}

#[cfg(test)]
pub(super) fn encode_for_test(
    version: u16,
    file_sequence: u64,
    flush_sequence: u64,
    record_count: u32,
    payload: &[u8],
) -> Vec<u8> {
    let payload_bytes = payload.len() as u32;
    let header = Header { version, payload_bytes, record_count, file_sequence, flush_sequence, mask: 0 };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(payload);
    let mut flush = [&header.encode(checksum)[..], payload].concat();
    flush.resize(padded(flush.len()), 0);
    flush
}

#[cfg(test)]
pub(super) fn header_for_test(
    file_sequence: u64,
    flush_sequence: u64,
    payload_bytes: u32,
) -> [u8; FLUSH_HEADER_BYTES] {
    let version = FORMAT_VERSION;
    let header = Header { version, payload_bytes, record_count: 1, file_sequence, flush_sequence, mask: 0 };
    header.encode(crc32fast::Hasher::new())
}
