use super::*;
use crate::wal::{Blockers, FileLedger};

fn ledger(records: &[(u64, Record)]) -> FileLedger {
    let mut ledger = FileLedger::new();
    for (file, record) in records {
        ledger.on_record(*file, record);
        ledger.assert_consistent();
    }
    ledger
}

fn blockers(file: u64, entries: &[(u64, u64)], states: &[u64]) -> Option<Blockers> {
    Some(Blockers {
        file,
        entries: entries.iter().map(|(group, index)| (GroupId(*group), LogIndex(*index))).collect(),
        states: states.iter().copied().map(GroupId).collect(),
    })
}

fn recyclable(ledger: &FileLedger) -> Vec<u64> {
    ledger.recyclable().collect()
}

#[test]
fn the_file_being_written_is_never_recycled() {
    assert_eq!(FileLedger::new().oldest_blockers(), None);
    let ledger = ledger(&[(1, removed(1))]);
    assert_eq!(ledger.oldest_blockers(), None);
    assert_eq!(recyclable(&ledger), []);
}

#[test]
fn entries_block_until_they_are_checkpointed() {
    let mut ledger = ledger(&[
        (1, entry(1, 1, 1, b"")),
        (1, entry(1, 1, 2, b"")),
        (1, hard_state(2, 1, 1, 0)),
        (2, entry(1, 1, 3, b"")),
        (3, entry(2, 1, 1, b"")),
    ]);
    assert_eq!(ledger.oldest_blockers(), blockers(1, &[(1, 2)], &[2]));
    ledger.on_record(3, &checkpoint(1, 2, 1));
    assert_eq!(ledger.oldest_blockers(), blockers(1, &[], &[2]));
    assert_eq!(recyclable(&ledger), []);
    ledger.on_record(3, &hard_state(2, 1, 1, 0));
    assert_eq!(recyclable(&ledger), [1]);
    ledger.on_record(3, &checkpoint(1, 3, 1));
    assert_eq!(recyclable(&ledger), [1, 2]);
    ledger.on_recycled(1);
    ledger.on_recycled(2);
    ledger.assert_consistent();
    assert_eq!(ledger.files().collect::<Vec<_>>(), [3]);
    assert_eq!(ledger.oldest_blockers(), None);
}

#[test]
fn replaced_entries_do_not_block() {
    let mut ledger = ledger(&[
        (1, entry(1, 1, 1, b"")),
        (2, entry(1, 1, 2, b"")),
        (2, entry(1, 1, 3, b"")),
        (3, entry(1, 1, 4, b"")),
        (4, entry(1, 2, 2, b"")),
    ]);
    assert_eq!(ledger.oldest_blockers(), blockers(1, &[(1, 1)], &[]));
    ledger.on_record(4, &checkpoint(1, 1, 1));
    assert_eq!(recyclable(&ledger), [1, 2, 3]);
    ledger.on_record(5, &hard_state(2, 1, 1, 0));
    for file in 1..=3 {
        ledger.on_recycled(file);
    }
    assert_eq!(ledger.oldest_blockers(), blockers(4, &[(1, 2)], &[1]));
    ledger.on_record(5, &removed(1));
    assert_eq!(recyclable(&ledger), [4]);
}

#[test]
fn an_entry_rewritten_in_its_own_file_blocks_once() {
    let mut ledger = ledger(&[
        (1, entry(1, 1, 1, b"")),
        (1, entry(1, 1, 2, b"")),
        (1, entry(1, 2, 1, b"")),
        (1, entry(1, 2, 2, b"")),
        (2, checkpoint(1, 1, 2)),
    ]);
    assert_eq!(ledger.oldest_blockers(), blockers(1, &[(1, 2)], &[]));
    ledger.on_record(2, &checkpoint(1, 2, 2));
    assert_eq!(recyclable(&ledger), [1]);
}
