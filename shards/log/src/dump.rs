//! WAL files and segments as lines of text, for people.

use std::fmt::{self, Write};

use protocol::batch::{BatchHeader, check_crc};

use crate::segment::BatchSpan;
use crate::wal::{FORMAT_VERSION, FlushView, RecordRef, flushes};

/// Writes a line for each valid flush of a WAL file and, indented, one for each of its records. Flushes of the
/// file's former lives are listed too and marked as stale. `file_sequence` is the number in the file's name.
///
/// # Errors
///
/// Only those of `out`.
pub fn dump_wal(out: &mut impl Write, file_sequence: u64, content: &[u8]) -> fmt::Result {
    let mut flush_count = 0;
    for flush in flushes(content) {
        write_flush(out, file_sequence, &flush)?;
        flush_count += 1;
    }
    writeln!(out, "{flush_count} valid flushes in {} bytes", content.len())
}

fn write_flush(out: &mut impl Write, file_sequence: u64, flush: &FlushView<'_>) -> fmt::Result {
    write!(
        out,
        "flush {} at {} bytes {} file {} records {}",
        flush.flush_sequence, flush.position, flush.bytes, flush.file_sequence, flush.record_count
    )?;
    out.write_str(if flush.file_sequence == file_sequence { "\n" } else { " stale\n" })?;
    if flush.version != FORMAT_VERSION {
        return writeln!(out, "  of unknown format version {}", flush.version);
    }
    match flush.records() {
        Some(records) => records.iter().try_for_each(|record| write_record(out, record)),
        None => writeln!(out, "  payload that is not a row of records"),
    }
}

fn write_record(out: &mut impl Write, record: &RecordRef<'_>) -> fmt::Result {
    match record {
        RecordRef::Entry { group, term, index, entry_type, context, data } => writeln!(
            out,
            "  entry group {group} index {index} term {term} type {entry_type} context {} bytes data {} bytes",
            context.len(),
            data.len()
        ),
        RecordRef::HardState { group, term, vote, commit } => {
            writeln!(out, "  hard-state group {group} term {term} vote {vote} commit {commit}")
        }
        RecordRef::Checkpoint { group, index, term, state } => {
            writeln!(out, "  checkpoint group {group} index {index} term {term} state {} bytes", state.len())
        }
        RecordRef::Truncated { group, from } => writeln!(out, "  truncated group {group} from {from}"),
        RecordRef::GroupRemoved { group } => writeln!(out, "  group-removed group {group}"),
    }
}

/// Writes a line for each batch of a segment, with the fields that Kafka's `kafka-dump-log` shows and the
/// result of the check of its CRC. `position` is where `bytes`, which begins with a batch, stands in
/// the segment.
///
/// # Errors
///
/// Only those of `out`.
pub fn dump_segment(out: &mut impl Write, position: u64, bytes: &[u8]) -> fmt::Result {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let here = position + at as u64;
        let header = match BatchHeader::parse(rest) {
            Ok(header) => header,
            Err(error) => return writeln!(out, "position {here}: no batch: {error}"),
        };
        if BatchSpan::of(&header).is_none() {
            return writeln!(out, "position {here}: no batch: its offsets make no sense");
        }
        let Some(batch) = rest.get(..header.size_in_bytes()) else {
            let needed = header.size_in_bytes();
            return writeln!(out, "position {here}: batch cut off: {} of {needed} bytes", rest.len());
        };
        write_batch(out, here, &header, batch)?;
        at += batch.len();
    }
    Ok(())
}

fn write_batch(out: &mut impl Write, position: u64, header: &BatchHeader, batch: &[u8]) -> fmt::Result {
    write!(
        out,
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} position: {position} ",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
    )?;
    if header.has_delete_horizon() {
        write!(out, "deleteHorizonMs: {} ", header.base_timestamp)?;
    }
    let timestamp_type = if header.is_log_append_time() { "LogAppendTime" } else { "CreateTime" };
    let codec =
        header.codec().map_or_else(|_| "unknown".to_owned(), |codec| format!("{codec:?}").to_lowercase());
    let is_valid = check_crc(header, batch).is_ok();
    writeln!(
        out,
        "{timestamp_type}: {} size: {} compressCodec: {codec} crc: {} isValid: {is_valid}",
        header.max_timestamp,
        batch.len(),
        header.crc,
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use expect_test::expect;
    use protocol::batch::{BatchBuilder, BatchOptions};
    use types::{GroupId, LogIndex, Offset, Term};

    use super::*;
    use crate::wal::{FlushBuilder, Record};

    #[test]
    fn a_wal_file_is_listed() {
        let mut content = Vec::new();
        for (file_sequence, flush_sequence) in [(7, 20), (3, 9)] {
            let mut builder = FlushBuilder::new(file_sequence, flush_sequence);
            let group = GroupId(4);
            let index = LogIndex(5);
            let term = Term(2);
            builder.push(Record::HardState { group, term, vote: 1, commit: index });
            builder.push(Record::Entry {
                group,
                term,
                index: index.next(),
                entry_type: 0,
                context: Bytes::from_static(b"abc"),
                data: Bytes::from(vec![0; 5_000]),
            });
            builder.push(Record::Truncated { group, from: index.next() });
            builder.push(Record::Checkpoint { group, index, term, state: Bytes::new() });
            builder.push(Record::GroupRemoved { group });
            content.extend(builder.finish().parts.concat());
        }
        let mut out = String::new();
        dump_wal(&mut out, 7, &content).expect("a string takes everything");
        expect![[r#"
            flush 20 at 0 bytes 8192 file 7 records 5
              hard-state group 4 term 2 vote 1 commit 5
              entry group 4 index 6 term 2 type 0 context 3 bytes data 5000 bytes
              truncated group 4 from 6
              checkpoint group 4 index 5 term 2 state 0 bytes
              group-removed group 4
            flush 9 at 8192 bytes 8192 file 3 records 5 stale
              hard-state group 4 term 2 vote 1 commit 5
              entry group 4 index 6 term 2 type 0 context 3 bytes data 5000 bytes
              truncated group 4 from 6
              checkpoint group 4 index 5 term 2 state 0 bytes
              group-removed group 4
            2 valid flushes in 16384 bytes
        "#]]
        .assert_eq(&out);
    }

    #[test]
    fn a_segment_is_listed() {
        let mut bytes = Vec::new();
        for base in [100, 102] {
            let options =
                BatchOptions { base_offset: Offset(base), leader_epoch: 3, ..BatchOptions::default() };
            let mut builder = BatchBuilder::new(options);
            builder.append(1_000, Some(b"key"), Some(b"value"), &[]);
            builder.append(1_001, None, None, &[]);
            bytes.extend_from_slice(&builder.build());
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes.extend_from_slice(&bytes.clone()[..70]);
        let mut out = String::new();
        dump_segment(&mut out, 4_096, &bytes).expect("a string takes everything");
        dump_segment(&mut out, 0, &[0; 10]).expect("a string takes everything");
        dump_segment(&mut out, 0, &[9; 100]).expect("a string takes everything");
        expect![[r#"
            baseOffset: 100 lastOffset: 101 count: 2 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false position: 4096 CreateTime: 1001 size: 83 compressCodec: none crc: 1072229350 isValid: true
            baseOffset: 102 lastOffset: 103 count: 2 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false position: 4179 CreateTime: 1001 size: 83 compressCodec: none crc: 1072229350 isValid: false
            position 4262: batch cut off: 70 of 83 bytes
            position 0: no batch: the record batch ends early: 10 bytes of 61
            position 0: no batch: unknown message format 9
        "#]].assert_eq(&out);
    }
}
