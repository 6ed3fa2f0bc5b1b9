mod frames;
mod histories;
mod ledgers;
mod recoveries;

use bytes::Bytes;
use types::{GroupId, LogIndex, Term};

use super::{Flush, FlushBuilder, Record, Recovered, RecoveryError, WalFileContent, file_name, recover};

fn flat(flush: &Flush) -> Vec<u8> {
    let bytes = flush.parts.concat();
    assert_eq!(bytes.len(), flush.bytes);
    bytes
}

fn build(file_sequence: u64, flush_sequence: u64, records: &[Record]) -> Vec<u8> {
    let mut builder = FlushBuilder::new(file_sequence, flush_sequence);
    records.iter().for_each(|record| builder.push(record.clone()));
    flat(&builder.finish())
}

fn entry(group: u64, term: u64, index: u64, data: &[u8]) -> Record {
    Record::Entry {
        group: GroupId(group),
        term: Term(term),
        index: LogIndex(index),
        entry_type: 0,
        context: Bytes::new(),
        data: Bytes::copy_from_slice(data),
    }
}

fn hard_state(group: u64, term: u64, vote: u64, commit: u64) -> Record {
    Record::HardState { group: GroupId(group), term: Term(term), vote, commit: LogIndex(commit) }
}

fn checkpoint(group: u64, index: u64, term: u64) -> Record {
    let state = Bytes::from_static(b"state");
    Record::Checkpoint { group: GroupId(group), index: LogIndex(index), term: Term(term), state }
}

fn truncated(group: u64, from: u64) -> Record {
    Record::Truncated { group: GroupId(group), from: LogIndex(from) }
}

fn removed(group: u64) -> Record {
    Record::GroupRemoved { group: GroupId(group) }
}

/// Recovers from files given as (sequence, content).
fn recover_files(files: &[(u64, Vec<u8>)]) -> Result<Recovered, RecoveryError> {
    let files: Vec<_> = files
        .iter()
        .map(|(sequence, content)| WalFileContent {
            sequence: *sequence,
            name: file_name(*sequence),
            content,
        })
        .collect();
    recover(&files)
}
