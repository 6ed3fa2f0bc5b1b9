//! WAL files and segments, written by one node and read by the next or by the file system.

use std::fs;

use log::wal::{FlushBuilder, Record, Recovered};
use shard::{DiskAnswer, DiskError, DiskRequest, DiskToken};
use types::limits::{BLOCK_BYTES, WAL_FILE_BYTES};
use types::{LogIndex, Offset, Term};

use super::*;
use crate::{Exit, Fatal};

const GROUP: GroupId = GroupId(7);

fn entry(index: u64, bytes: usize) -> Record {
    Record::Entry {
        group: GROUP,
        term: Term(1),
        index: LogIndex(index),
        entry_type: 0,
        context: Bytes::new(),
        data: Bytes::from(patterned(bytes, index as usize)),
    }
}

fn hard_state() -> Record {
    Record::HardState { group: GROUP, term: Term(1), vote: 1, commit: LogIndex(0) }
}

fn write_wal(file: u64, position: u64, flush: u64, records: Vec<Record>) -> Effect {
    let mut builder = FlushBuilder::new(file, flush);
    records.into_iter().for_each(|record| builder.push(record));
    Effect::WriteWal { number: flush, file, position, flush: builder.finish() }
}

/// What a node of one shard finds in its WAL.
fn recover(data_dir: &Path) -> Recovered {
    let (sender, found) = crossbeam_channel::unbounded();
    let node = start(data_dir, 1, move |start, effects| {
        sender.send(start.recovered).expect("the test listens");
        let (unused, _) = crossbeam_channel::unbounded();
        scripted_core(Vec::new(), effects, unused)
    });
    assert_eq!(node.stop(), Exit::Finished);
    found.recv().expect("recovered before it started")
}

#[test]
fn what_was_flushed_is_recovered() {
    let dir = temporary();
    let first = recover(dir.path());
    assert_eq!((first.next_file_sequence, first.next_flush_sequence, first.files.len()), (1, 1, 0));

    // The second flush takes several disk requests; its size follows from the first entry's.
    let events = run_script(dir.path(), || {
        vec![
            vec![Effect::CreateWalFile { file: 1 }, Effect::CreateWalFile { file: 2 }],
            vec![write_wal(1, 0, 1, vec![hard_state(), entry(1, 100)])],
            vec![write_wal(1, BLOCK_BYTES as u64, 2, vec![entry(2, 3_000_000)])],
            vec![write_wal(2, 0, 3, vec![entry(3, 5)])],
        ]
    });
    let flushed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::WalFlushed { flush } => Some(*flush),
            Event::WalFileReady { result, .. } => {
                assert_eq!(*result, Ok(()));
                None
            }
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(flushed, [1, 2, 3]);

    let second = recover(dir.path());
    let group = &second.groups[&GROUP];
    let expected: Vec<_> = [(1, 100), (2, 3_000_000), (3, 5)].into_iter().collect();
    assert_eq!(group.entries.len(), expected.len());
    for (entry, (index, bytes)) in group.entries.iter().zip(expected) {
        assert_eq!(entry.index, LogIndex(index));
        assert!(entry.data == patterned(bytes, index as usize), "entry {index}");
    }
    assert_eq!((second.next_file_sequence, second.next_flush_sequence), (3, 4));
    for file in fs::read_dir(dir.path().join("wal/shard-0")).expect("listed") {
        assert_eq!(file.expect("listed").metadata().expect("there").len(), WAL_FILE_BYTES);
    }
}

#[test]
fn a_recycled_file_keeps_its_place_under_its_new_number() {
    let dir = temporary();
    let events = run_script(dir.path(), || {
        vec![
            vec![Effect::CreateWalFile { file: 1 }],
            vec![write_wal(1, 0, 1, vec![hard_state(), entry(1, 9)])],
            vec![Effect::RecycleWalFile { from: 1, file: 2 }],
            // The file is open from its first life; this must reach its second.
            vec![write_wal(2, 0, 2, vec![hard_state(), entry(1, 10)])],
            vec![Effect::RecycleWalFile { from: 1, file: 3 }],
        ]
    });
    let Some(Event::WalFileReady { file: 3, result: Err(DiskError::Failed(why)) }) = events.last() else {
        panic!("a file that is not there cannot be recycled: {events:?}");
    };
    assert!(why.contains("0000000000000001.wal"), "{why}");
    let recovered = recover(dir.path());
    assert_eq!(recovered.files.iter().map(|file| file.sequence).collect::<Vec<_>>(), [2]);
    assert_eq!(recovered.groups[&GROUP].entries[0].data, patterned(10, 1));
}

#[test]
fn an_unfinished_wal_file_is_not_one() {
    let dir = temporary();
    recover(dir.path());
    let unfinished = dir.path().join("wal/shard-0/0000000000000001.new");
    fs::write(&unfinished, b"half").expect("written");
    assert_eq!(recover(dir.path()).files.len(), 0);
    assert!(!unfinished.exists());
}

#[test]
fn a_failed_wal_write_ends_the_node_by_name() {
    let dir = temporary();
    let node = start(dir.path(), 1, |_, effects| {
        // There is no such file, so the write cannot succeed.
        effects.push(write_wal(9, 0, 1, vec![hard_state()]));
        closure_core(|_, event, _, _| assert!(!matches!(event, Event::WalFlushed { .. })))
    });
    let exit = node.wait();
    let Exit::Fatal(Fatal::WalWriteFailed { shard: ShardId(0), why }) = &exit else {
        panic!("ended by {exit:?}");
    };
    assert!(why.contains("0000000000000009.wal"), "{why}");
}

#[test]
fn damage_refuses_to_start_and_deletes_nothing() {
    let dir = temporary();
    run_script(dir.path(), || {
        vec![
            vec![Effect::CreateWalFile { file: 1 }],
            vec![write_wal(1, 0, 1, vec![hard_state(), entry(1, 9)])],
            vec![write_wal(1, BLOCK_BYTES as u64, 2, vec![entry(2, 9)])],
        ]
    });
    let path = dir.path().join("wal/shard-0/0000000000000001.wal");
    let mut content = fs::read(&path).expect("read");
    content[60] ^= 1;
    fs::write(&path, &content).expect("written");
    let refused = Node::start(options(dir.path(), 1), echo_core);
    assert!(matches!(refused, Err(StartError::Recovery { shard: 0, .. })), "{refused:?}");
    assert!(fs::read(&path).expect("still there") == content);
    // Nothing is left of the attempt: the data directory can be opened again at once.
    content[60] ^= 1;
    fs::write(&path, &content).expect("written");
    assert_eq!(recover(dir.path()).groups[&GROUP].entries.len(), 2);
}

#[test]
fn a_shortened_wal_file_is_refused() {
    let dir = temporary();
    run_script(dir.path(), || {
        vec![
            vec![Effect::CreateWalFile { file: 1 }],
            vec![write_wal(1, 0, 1, vec![hard_state(), entry(1, 9)])],
        ]
    });
    let path = dir.path().join("wal/shard-0/0000000000000001.wal");
    for length in [0, BLOCK_BYTES as u64, WAL_FILE_BYTES - 1, WAL_FILE_BYTES + 1] {
        fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(length)).expect("cut");
        match Node::start(options(dir.path(), 1), echo_core) {
            Err(StartError::Layout { path: named, why }) => {
                assert_eq!(named, path);
                assert!(why.contains(&length.to_string()), "{why}");
            }
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

fn disk(token: u64, request: DiskRequest) -> Effect {
    Effect::Disk { token: DiskToken(token), request }
}

fn create_group(token: u64) -> Effect {
    disk(
        token,
        DiskRequest::CreateGroup {
            group: GROUP,
            description: "version: 0\n".to_owned(),
            segments: Vec::new(),
        },
    )
}

fn append(token: u64, position: u64, bytes: usize) -> Effect {
    let whole = patterned(bytes, position as usize);
    // In pieces, as batches are.
    let data = whole.chunks(bytes.div_ceil(3).max(1)).map(Bytes::copy_from_slice).collect();
    let index = Bytes::copy_from_slice(&position.to_be_bytes());
    disk(
        token,
        DiskRequest::AppendSegment {
            group: GROUP,
            segment: Offset(0),
            position,
            data,
            offsets: (token * 8, index.clone()),
            times: (token * 8, index),
            in_a_hurry: token.is_multiple_of(2),
        },
    )
}

fn read(token: u64, position: u64, length: usize) -> Effect {
    disk(token, DiskRequest::ReadSegment { group: GROUP, segment: Offset(0), position, length })
}

fn answer(events: &[Event], wanted: u64) -> &Result<DiskAnswer, DiskError> {
    let found = events.iter().find_map(|event| match event {
        Event::Disk { token, result } if token.0 == wanted => Some(result),
        _ => None,
    });
    found.expect("an answer for each request")
}

fn segment_file(data_dir: &Path, ending: &str) -> Vec<u8> {
    fs::read(data_dir.join(format!("groups/7/00000000000000000000.{ending}"))).expect("read")
}

#[test]
fn appends_of_any_size_leave_the_exact_bytes() {
    // Each size twice, so that most appends begin and end within a block.
    let sizes: Vec<usize> = [1, 4_095, 4_096, 4_097, 100, 524_288, 700_001, 1_572_865, 1]
        .into_iter()
        .flat_map(|bytes| [bytes, bytes])
        .collect();
    let dir = temporary();
    let script = sizes.clone();
    let events = run_script(dir.path(), move || {
        let mut position = 0;
        // All at once: the requests of a group are carried out in order.
        let mut batch = vec![create_group(99)];
        for (token, bytes) in (0..).zip(&script) {
            batch.push(append(token, position, *bytes));
            position += *bytes as u64;
        }
        batch.push(read(100, 0, position as usize));
        batch.push(read(101, 5_000, 1));
        batch.push(read(102, 4_000, 600_000));
        batch.push(read(103, position - 10, 50));
        batch.push(read(104, position + 4_096, 50));
        vec![batch]
    });
    let mut expected = Vec::new();
    for bytes in &sizes {
        expected.extend(patterned(*bytes, expected.len()));
    }
    for token in (0..sizes.len() as u64).chain([99]) {
        assert!(matches!(answer(&events, token), Ok(DiskAnswer::Done)), "request {token}: {events:?}");
    }
    assert!(segment_file(dir.path(), "log") == expected);
    let end = expected.len();
    for (token, range) in
        [(100, 0..end), (101, 5_000..5_001), (102, 4_000..604_000), (103, end - 10..end), (104, end..end)]
    {
        let Ok(DiskAnswer::Bytes(found)) = answer(&events, token) else { panic!("read {token} failed") };
        assert!(*found == expected[range.clone()], "read of {range:?} brought {} bytes", found.len());
    }
    assert_eq!(segment_file(dir.path(), "index").len(), 8 * sizes.len());
    assert_eq!(segment_file(dir.path(), "timeindex"), segment_file(dir.path(), "index"));
    assert_eq!(fs::read(dir.path().join("groups/7/partition.metadata")).expect("read"), b"version: 0\n");
}

#[test]
fn what_a_crash_left_behind_the_end_is_cut() {
    let dir = temporary();
    run_script(dir.path(), || vec![vec![create_group(0), append(1, 0, 5_000)]]);
    let log = dir.path().join("groups/7/00000000000000000000.log");
    let mut content = fs::read(&log).expect("read");
    content.extend_from_slice(&[0xee; 20_000]);
    fs::write(&log, &content).expect("written");
    let events = run_script(dir.path(), || vec![vec![append(0, 5_000, 10)], vec![append(1, 900_000, 10)]]);
    let mut expected = patterned(5_000, 0);
    expected.extend(patterned(10, 5_000));
    assert!(segment_file(dir.path(), "log") == expected);
    let Err(DiskError::Failed(why)) = answer(&events, 1) else { panic!("a gap was written: {events:?}") };
    assert!(why.contains("ends before 900000"), "{why}");
}

#[test]
fn indexes_are_read_and_groups_removed() {
    let dir = temporary();
    let read_indexes = |token| disk(token, DiskRequest::ReadIndexes { group: GROUP, segment: Offset(0) });
    let later = || {
        disk(
            4,
            DiskRequest::AppendSegment {
                group: GROUP,
                segment: Offset(50),
                position: 0,
                data: vec![Bytes::from_static(b"later")],
                offsets: (0, Bytes::new()),
                times: (0, Bytes::new()),
                in_a_hurry: true,
            },
        )
    };
    let events = run_script(dir.path(), move || {
        let remove_segment = DiskRequest::RemoveSegments { group: GROUP, segments: vec![Offset(0)] };
        vec![vec![
            create_group(0),
            read_indexes(1),
            append(2, 0, 10),
            read_indexes(3),
            later(),
            read_indexes(5),
            disk(6, remove_segment),
            read_indexes(7),
            read(8, 0, 10),
            disk(9, DiskRequest::RemoveGroup { group: GROUP }),
            disk(10, DiskRequest::RemoveGroup { group: GROUP }),
            disk(11, DiskRequest::MeasureSpace),
        ]]
    });
    let Ok(DiskAnswer::Space { total_bytes, usable_bytes }) = answer(&events, 11) else {
        panic!("the space is not told: {:?}", answer(&events, 11));
    };
    assert!(0 < *usable_bytes && usable_bytes < total_bytes, "{usable_bytes} of {total_bytes}");
    for (token, expected) in [(1, 0), (3, 24), (5, 24), (7, 0)] {
        let Ok(DiskAnswer::Indexes { offsets, times }) = answer(&events, token) else {
            panic!("request {token} failed: {:?}", answer(&events, token));
        };
        assert_eq!((offsets.len(), times.len()), (expected, expected), "request {token}");
    }
    assert!(matches!(answer(&events, 8), Err(DiskError::Failed(_))), "the segment is gone");
    for token in [6, 9, 10] {
        assert!(matches!(answer(&events, token), Ok(DiskAnswer::Done)));
    }
    assert!(!dir.path().join("groups/7").exists());
}

#[test]
fn many_groups_work_at_once_and_each_in_its_order() {
    const GROUPS: u64 = 40;
    let dir = temporary();
    let events = run_script(dir.path(), || {
        let create = (0..GROUPS).map(|group| {
            disk(
                group,
                DiskRequest::CreateGroup {
                    group: GroupId(group),
                    description: String::new(),
                    segments: Vec::new(),
                },
            )
        });
        let work = (0..GROUPS * 10).map(|number| {
            let (group, round) = (number % GROUPS, number / GROUPS);
            disk(
                1_000 + number,
                DiskRequest::AppendSegment {
                    group: GroupId(group),
                    segment: Offset(0),
                    position: round * 3,
                    data: vec![Bytes::from(vec![b'0' + round as u8; 3])],
                    offsets: (0, Bytes::new()),
                    times: (0, Bytes::new()),
                    in_a_hurry: false,
                },
            )
        });
        vec![create.collect(), work.collect()]
    });
    assert!(events.iter().all(|event| matches!(event, Event::Disk { result: Ok(_), .. })));
    for group in 0..GROUPS {
        let path = dir.path().join(format!("groups/{group}/00000000000000000000.log"));
        assert_eq!(fs::read(path).expect("read"), b"000111222333444555666777888999");
    }
}
