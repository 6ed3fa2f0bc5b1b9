use expect_test::{Expect, expect};
use proptest::prelude::*;
use types::limits::BLOCK_BYTES;

use super::*;
use crate::wal::{RecoveredGroup, flush};

/// The state of a group in one line.
fn show_group(group: &RecoveredGroup) -> String {
    let RecoveredGroup { term, vote, commit, checkpoint, entries, state_file } = group;
    let checkpoint = checkpoint.as_ref().map(|checkpoint| (checkpoint.index.0, checkpoint.term.0));
    let entries: Vec<_> = entries.iter().map(|entry| format!("{}@{}", entry.index, entry.term)).collect();
    format!(
        "term {term} vote {vote} commit {commit} checkpoint {checkpoint:?} entries [{}] state file {state_file:?}",
        entries.join(" ")
    )
}

fn show(result: Result<Recovered, RecoveryError>) -> String {
    match result {
        Err(error) => error.to_string(),
        Ok(recovered) => {
            let mut lines: Vec<_> = recovered
                .groups
                .iter()
                .map(|(group, state)| format!("group {group}: {}", show_group(state)))
                .collect();
            let files: Vec<_> = recovered.files.iter().map(|file| (file.sequence, file.used_bytes)).collect();
            lines.push(format!("files {files:?}"));
            lines.push(format!(
                "next file {} flush {}",
                recovered.next_file_sequence, recovered.next_flush_sequence
            ));
            lines.join("\n")
        }
    }
}

fn check(files: &[(u64, Vec<u8>)], expected: Expect) {
    expected.assert_eq(&show(recover_files(files)));
}

/// One file with one flush of these records.
fn check_records(records: &[Record], expected: Expect) {
    check(&[(1, build(1, 1, records))], expected);
}

fn zeros() -> Vec<u8> {
    vec![0; 2 * BLOCK_BYTES]
}

#[test]
fn a_new_wal_is_empty() {
    check(
        &[],
        expect![[r#"
            files []
            next file 1 flush 1"#]],
    );
    check(
        &[(2, zeros()), (1, zeros())],
        expect![[r#"
            files [(1, 0), (2, 0)]
            next file 3 flush 1"#]],
    );
}

#[test]
fn entries_replace_those_at_and_above_them() {
    check_records(
        &[
            hard_state(1, 1, 2, 0),
            entry(1, 1, 1, b"a"),
            entry(1, 1, 2, b"b"),
            entry(1, 1, 3, b"c"),
            hard_state(1, 2, 3, 1),
            entry(1, 2, 2, b"B"),
        ],
        expect![[r#"
            group 1: term 2 vote 3 commit 1 checkpoint None entries [1@1 2@2] state file Some(1)
            files [(1, 4096)]
            next file 2 flush 2"#]],
    );
}

#[test]
fn a_checkpoint_keeps_what_follows_it_and_a_snapshot_does_not() {
    let log = [hard_state(1, 3, 0, 0), entry(1, 1, 1, b""), entry(1, 1, 2, b""), entry(1, 1, 3, b"")];
    check_records(
        &[&log[..], &[checkpoint(1, 2, 1)]].concat(),
        expect![[r#"
            group 1: term 3 vote 0 commit 2 checkpoint Some((2, 1)) entries [3@1] state file Some(1)
            files [(1, 4096)]
            next file 2 flush 2"#]],
    );
    check_records(
        &[&log[..], &[truncated(1, 2), checkpoint(1, 2, 2)]].concat(),
        expect![[r#"
            group 1: term 3 vote 0 commit 2 checkpoint Some((2, 2)) entries [] state file Some(1)
            files [(1, 4096)]
            next file 2 flush 2"#]],
    );
    check_records(
        &[&log[..], &[checkpoint(1, 9, 3), entry(1, 3, 10, b"")]].concat(),
        expect![[r#"
            group 1: term 3 vote 0 commit 9 checkpoint Some((9, 3)) entries [10@3] state file Some(1)
            files [(1, 4096)]
            next file 2 flush 2"#]],
    );
}

#[test]
fn a_removed_group_is_forgotten_and_may_come_back() {
    check_records(
        &[
            hard_state(1, 7, 1, 0),
            checkpoint(1, 50, 7),
            hard_state(2, 1, 1, 0),
            removed(1),
            removed(2),
            removed(3),
            hard_state(1, 1, 0, 0),
            entry(1, 1, 1, b""),
        ],
        expect![[r#"
            group 1: term 1 vote 0 commit 0 checkpoint None entries [1@1] state file Some(1)
            files [(1, 4096)]
            next file 2 flush 2"#]],
    );
}

#[test]
fn the_oldest_file_may_begin_with_a_checkpoint_that_lags() {
    // Entries 5 to 7 stood in a file that was recycled when the second checkpoint was durable.
    let first = build(4, 9, &[checkpoint(1, 4, 1), hard_state(1, 1, 0, 6), entry(1, 1, 8, b"")]);
    let second = build(5, 10, &[checkpoint(1, 7, 1), entry(1, 1, 9, b"")]);
    check(
        &[(4, first.clone()), (5, second)],
        expect![[r#"
            group 1: term 1 vote 0 commit 7 checkpoint Some((7, 1)) entries [8@1 9@1] state file Some(4)
            files [(4, 4096), (5, 4096)]
            next file 6 flush 11"#]],
    );
    check(
        &[(4, first), (5, zeros())],
        expect![
            "the WAL's records of group 1 are inconsistent: entries are missing between the checkpoint and the first entry"
        ],
    );
}

#[test]
fn entries_may_be_written_again_from_below_the_first_that_is_left() {
    // Entry 5 stood in a file that was recycled once all of them were written again.
    let first =
        build(4, 9, &[checkpoint(1, 4, 1), hard_state(1, 1, 0, 6), entry(1, 1, 6, b""), entry(1, 1, 7, b"")]);
    let second = build(5, 10, &[entry(1, 1, 5, b""), entry(1, 1, 6, b""), entry(1, 1, 7, b"")]);
    check(
        &[(4, first), (5, second)],
        expect![[r#"
            group 1: term 1 vote 0 commit 6 checkpoint Some((4, 1)) entries [5@1 6@1 7@1] state file Some(4)
            files [(4, 4096), (5, 4096)]
            next file 6 flush 11"#]],
    );
}

#[test]
fn contradictions_are_named() {
    let cases: &[(&[Record], Expect)] = &[
        (
            &[
                checkpoint(1, 4, 1),
                hard_state(1, 2, 0, 6),
                entry(1, 1, 6, b""),
                entry(1, 1, 5, b""),
                entry(1, 2, 6, b""),
            ],
            expect![
                "the WAL's records of group 1 are inconsistent: a committed entry was replaced by one of another term"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 0), entry(1, 1, 1, b""), entry(1, 1, 3, b"")],
            expect!["the WAL's records of group 1 are inconsistent: entries are missing between two entries"],
        ),
        (
            &[hard_state(1, 1, 0, 0), entry(1, 1, 2, b"")],
            expect![
                "the WAL's records of group 1 are inconsistent: entries are missing between the checkpoint and the first entry"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 2), entry(1, 1, 1, b"")],
            expect![
                "the WAL's records of group 1 are inconsistent: the commit index is beyond the last entry"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 1), entry(1, 1, 1, b""), hard_state(1, 2, 0, 1), entry(1, 2, 1, b"")],
            expect![
                "the WAL's records of group 1 are inconsistent: a committed entry was replaced by one of another term"
            ],
        ),
        (
            &[hard_state(1, 2, 0, 0), hard_state(1, 1, 0, 0)],
            expect![
                "the WAL's records of group 1 are inconsistent: the term of a hard state is below that of an earlier one"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 0), entry(1, 2, 1, b"")],
            expect![
                "the WAL's records of group 1 are inconsistent: the term of the last entry is above that of the hard state"
            ],
        ),
        (
            &[hard_state(1, 2, 0, 0), entry(1, 2, 1, b""), entry(1, 1, 2, b"")],
            expect!["the WAL's records of group 1 are inconsistent: the terms of the entries decrease"],
        ),
        (
            &[checkpoint(1, 5, 1), entry(1, 1, 5, b"")],
            expect![
                "the WAL's records of group 1 are inconsistent: an entry stands at or below the checkpoint written before it"
            ],
        ),
        (
            &[checkpoint(1, 5, 1), checkpoint(1, 4, 1)],
            expect!["the WAL's records of group 1 are inconsistent: a checkpoint is below an earlier one"],
        ),
        (
            &[checkpoint(1, 5, 1), checkpoint(1, 5, 2)],
            expect![
                "the WAL's records of group 1 are inconsistent: two checkpoints of one index have different terms"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 0), entry(1, 1, 1, b""), checkpoint(1, 1, 2)],
            expect![
                "the WAL's records of group 1 are inconsistent: a checkpoint has another term than the entry at its index"
            ],
        ),
        (
            &[hard_state(1, 1, 0, 1), entry(1, 1, 1, b""), truncated(1, 1)],
            expect![
                "the WAL's records of group 1 are inconsistent: the commit index is beyond the last entry"
            ],
        ),
        (
            &[entry(1, 1, u64::MAX, b"")],
            expect!["the WAL's records of group 1 are inconsistent: the index of an entry is out of range"],
        ),
        (
            &[checkpoint(1, u64::MAX, 1)],
            expect![
                "the WAL's records of group 1 are inconsistent: the index of a checkpoint is out of range"
            ],
        ),
    ];
    for (records, expected) in cases {
        expected.assert_eq(&show(recover_files(&[(1, build(1, 1, records))])));
    }
}

/// Three files: flushes 5 and 6 in file 3, 7 in file 4, none in file 5.
fn three_files() -> [(u64, Vec<u8>); 3] {
    let third = [
        build(3, 5, &[hard_state(1, 1, 1, 0)]),
        build(3, 6, &[entry(1, 1, 1, b"")]),
        build(1, 2, &[hard_state(8, 8, 8, 0)]),
    ]
    .concat();
    let fourth = [build(4, 7, &[entry(1, 1, 2, b"")]), build(2, 3, &[hard_state(9, 9, 9, 0)])].concat();
    [(3, third), (4, fourth), (5, build(2, 4, &[hard_state(9, 9, 9, 0)]))]
}

#[test]
fn stale_flushes_of_recycled_files_are_ignored() {
    check(
        &three_files(),
        expect![[r#"
            group 1: term 1 vote 1 commit 0 checkpoint None entries [1@1 2@1] state file Some(3)
            files [(3, 8192), (4, 4096), (5, 0)]
            next file 6 flush 8"#]],
    );
    let recovered = recover_files(&three_files()).expect("nothing is wrong with it");
    assert_eq!(recovered.files[1].highest, [(GroupId(1), LogIndex(2))].into());
    recovered.ledger.assert_consistent();
}

#[test]
fn a_torn_tail_ends_the_log_and_its_number_goes_to_the_next_file() {
    let mut files = three_files();
    files[1].1[60] ^= 1;
    check(
        &files,
        expect![[r#"
            group 1: term 1 vote 1 commit 0 checkpoint None entries [1@1] state file Some(3)
            files [(3, 8192), (4, 0), (5, 0)]
            next file 6 flush 7"#]],
    );
    files[2].1 = build(5, 7, &[entry(1, 1, 2, b""), entry(1, 1, 3, b"")]);
    check(
        &files,
        expect![[r#"
            group 1: term 1 vote 1 commit 0 checkpoint None entries [1@1 2@1 3@1] state file Some(3)
            files [(3, 8192), (4, 0), (5, 4096)]
            next file 6 flush 8"#]],
    );
}

#[test]
fn damage_before_intact_flushes_is_named() {
    let mut files = three_files();
    files[0].1[BLOCK_BYTES + 50] ^= 1;
    check(
        &files,
        expect![
            "WAL file 0000000000000003.wal is damaged at byte 4096: flush 6 belongs there, but no valid one stands there, although flush 7, written later, is intact in 0000000000000004.wal at byte 0; data that was acknowledged is missing or unreadable"
        ],
    );
    let mut files = three_files();
    files[0].1[50] ^= 1;
    check(
        &files,
        expect![
            "the WAL does not begin with a valid flush: its oldest file 0000000000000003.wal has none at byte 0 and cannot be unused, because flush 6 is intact in 0000000000000003.wal at byte 4096; data that was acknowledged is missing or unreadable"
        ],
    );
}

#[test]
fn damage_is_named_before_contradictions_that_it_may_explain() {
    let before = build(3, 5, &[hard_state(1, 2, 1, 0), hard_state(1, 1, 1, 0)]);
    let behind = build(4, 7, &[hard_state(1, 3, 1, 0)]);
    check(
        &[(3, before.clone()), (4, behind)],
        expect![
            "WAL file 0000000000000003.wal is damaged at byte 4096: flush 6 belongs there, but no valid one stands there, although flush 7, written later, is intact in 0000000000000004.wal at byte 0; data that was acknowledged is missing or unreadable"
        ],
    );
    check(
        &[(3, before)],
        expect![
            "the WAL's records of group 1 are inconsistent: the term of a hard state is below that of an earlier one"
        ],
    );
}

#[test]
fn a_missing_file_is_named() {
    let [first, _, _] = three_files();
    let last = (5, build(5, 8, &[entry(1, 1, 3, b"")]));
    check(
        &[last, first],
        expect![
            "WAL file 0000000000000003.wal is damaged at byte 8192: flush 7 belongs there, but no valid one stands there, although flush 8, written later, is intact in 0000000000000005.wal at byte 0; data that was acknowledged is missing or unreadable"
        ],
    );
    check(
        &[(3, zeros())],
        expect![
            "the WAL does not begin with a valid flush: its oldest file 0000000000000003.wal has none at byte 0 and cannot be unused, because older files were recycled or removed; data that was acknowledged is missing or unreadable"
        ],
    );
    check(
        &[(3, zeros()), (3, zeros())],
        expect!["WAL files 0000000000000003.wal and 0000000000000003.wal have the same sequence number"],
    );
}

#[test]
fn unreadable_flushes_are_named() {
    let of_version_2 = flush::encode_for_test(2, 1, 1, 0, b"");
    check(
        &[(1, of_version_2)],
        expect![
            "WAL file 0000000000000001.wal holds a flush of format version 2 at byte 0, which this version cannot read"
        ],
    );
    let of_no_records = flush::encode_for_test(1, 1, 1, 1, b"\x09");
    check(
        &[(1, of_no_records)],
        expect![
            "WAL file 0000000000000001.wal holds a flush at byte 0 that cannot be read: its checksum is right, but its payload is not a row of records"
        ],
    );
    let of_wrong_count = flush::encode_for_test(1, 1, 1, 2, b"\x04\0\0\0\0\0\0\0\0");
    check(
        &[(1, of_wrong_count)],
        expect![
            "WAL file 0000000000000001.wal holds a flush at byte 0 that cannot be read: its checksum is right, but its payload is not a row of records"
        ],
    );
    let last = u64::MAX;
    check(
        &[(1, build(1, last, &[removed(1)]))],
        expect![
            "WAL file 0000000000000001.wal holds a flush at byte 0 that cannot be read: its sequence number is the last one there is"
        ],
    );
    check(
        &[(last, build(last, 1, &[removed(1)]))],
        expect![
            "WAL file ffffffffffffffff.wal holds a flush at byte 0 that cannot be read: its sequence number is the last one there is"
        ],
    );
}

fn small_record() -> impl Strategy<Value = Record> {
    let number = || prop_oneof![4 => 0..6u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)];
    (0..9u8, 1..3u64, number(), number()).prop_map(|(kind, group, a, b)| match kind {
        0..4 => entry(group, a, b, b"x"),
        4 | 5 => hard_state(group, a, 1, b),
        6 => checkpoint(group, b, a),
        7 => truncated(group, b),
        _ => removed(group),
    })
}

proptest! {
    #[test]
    fn senseless_records_never_panic(
        flushes in proptest::collection::vec(proptest::collection::vec(small_record(), 1..8), 1..4),
    ) {
        let content: Vec<_> = (1..).zip(&flushes).flat_map(|(sequence, records)| build(1, sequence, records)).collect();
        if let Ok(recovered) = recover_files(&[(1, content)]) {
            recovered.ledger.assert_consistent();
            for group in recovered.groups.values() {
                let checkpointed = group.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index.0);
                let indexes: Vec<_> = group.entries.iter().map(|entry| entry.index.0).collect();
                prop_assert!(indexes.iter().copied().eq((checkpointed + 1..).take(indexes.len())));
                prop_assert!(checkpointed <= group.commit.0 && group.commit <= group.last_index());
            }
        }
    }

    #[test]
    fn shuffled_blocks_never_panic(
        blocks in proptest::collection::vec((0..6usize, 1..4u64, 1..6u64), 1..12),
        cut in 0..BLOCK_BYTES,
        split in any::<prop::sample::Index>(),
    ) {
        let mut content = Vec::new();
        for (kind, file_sequence, flush_sequence) in &blocks {
            let whole = build(*file_sequence, *flush_sequence, &[hard_state(1, 1, 1, 0), entry(2, 1, 1, &[5; 6_000])]);
            match kind {
                0..3 => content.extend_from_slice(&whole),
                3 => content.extend_from_slice(&whole[..BLOCK_BYTES]),
                4 => content.extend_from_slice(&whole[BLOCK_BYTES..]),
                _ => content.extend(std::iter::repeat_n(0xc7, BLOCK_BYTES)),
            }
        }
        content.truncate(content.len() - cut);
        let second = content.split_off(split.index(content.len()) / BLOCK_BYTES * BLOCK_BYTES);
        let _: Result<Recovered, RecoveryError> = recover_files(&[(1, content), (2, second)]);
    }
}

#[test]
fn searching_many_forged_headers_takes_linear_time() {
    // Every block claims to be a flush that reaches to the end of the file: without the rule about the magic, each
    // would be checksummed to the end, which takes minutes.
    let blocks = 16_384;
    let mut content = Vec::with_capacity(blocks * BLOCK_BYTES);
    for block in 0..blocks {
        let payload_bytes = (blocks - block) * BLOCK_BYTES - crate::wal::FLUSH_HEADER_BYTES;
        content.extend_from_slice(&flush::header_for_test(1, 2, payload_bytes as u32));
        content.resize((block + 1) * BLOCK_BYTES, 1);
    }
    assert!(matches!(recover_files(&[(1, content)]), Ok(recovered) if recovered.groups.is_empty()));
}
