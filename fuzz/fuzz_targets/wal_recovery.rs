//! WAL recovery: over damaged logs of this broker, over flushes of senseless content, and over arbitrary files.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use log::wal::{
    FILE_SEQUENCE_FIRST, FLUSH_HEADER_BYTES, FLUSH_SEQUENCE_FIRST, FORMAT_VERSION, FlushBuilder, Record,
    RecoveredGroup, WalFileContent, file_name, flushes, recover,
};
use types::limits::BLOCK_BYTES;
use types::{GroupId, LogIndex, Term};

const FILE_BLOCKS: usize = 8;
const FLUSHES_MAX: usize = 24;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Files as they are, with their numbers.
    Files(Vec<(u8, &'a [u8])>),
    /// Flushes with right checksums around anything, then damage.
    Flushes { flushes: Vec<RawFlush<'a>>, damage: Vec<Damage> },
    /// A log that keeps Raft's rules, of which only the last flush is damaged.
    Torn { steps: Vec<Step>, damage: Vec<Damage> },
}

#[derive(Arbitrary, Debug)]
struct RawFlush<'a> {
    next_file: bool,
    flush_sequence_shift: i8,
    record_count: u8,
    payload: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Damage {
    file: u8,
    at: u16,
    bits: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Append { group: u8, entries: u8, bytes: u16 },
    NewTerm { group: u8 },
    Overwrite { group: u8, back: u8 },
    Checkpoint { group: u8 },
    Remove { group: u8 },
    Flush,
    NextFile,
}

fuzz_target!(|input: Input| {
    match input {
        Input::Files(files) => check(&files.iter().map(|(n, f)| (u64::from(*n), f.to_vec())).collect::<Vec<_>>()),
        Input::Flushes { flushes, damage } => {
            let mut files = raw_files(&flushes);
            for damage in &damage {
                let file = usize::from(damage.file) % files.len();
                apply(&mut files[file].1, 0, damage);
            }
            check(&files);
        }
        Input::Torn { steps, damage } => check_torn(&steps, &damage),
    }
});

/// Whatever comes out is in itself consistent, and comes out again.
fn check(files: &[(u64, Vec<u8>)]) {
    let contents = contents(files);
    let Ok(recovered) = recover(&contents) else {
        assert!(recover(&contents).is_err(), "recovery has one outcome");
        return;
    };
    recovered.ledger.assert_consistent();
    for group in recovered.groups.values() {
        check_group(group);
    }
    for (number, content) in files {
        for flush in flushes(content) {
            assert!(flush.position + flush.bytes <= content.len(), "a flush lies in its file");
            let _ = flush.records();
        }
        let mut text = String::new();
        log::dump::dump_wal(&mut text, *number, content).expect("text takes everything");
    }
}

fn check_group(group: &RecoveredGroup) {
    let start = group.checkpoint.as_ref().map_or(LogIndex(0), |checkpoint| checkpoint.index);
    for (nth, entry) in (1..).zip(&group.entries) {
        assert_eq!(entry.index, LogIndex(start.0 + nth), "entries follow the checkpoint without gaps");
        assert!(entry.term <= group.term, "the hard state knows the term of every entry");
    }
    assert!(start <= group.commit && group.commit <= group.last_index());
}

fn contents(files: &[(u64, Vec<u8>)]) -> Vec<WalFileContent<'_>> {
    files
        .iter()
        .map(|(sequence, content)| WalFileContent { sequence: *sequence, name: file_name(*sequence), content })
        .collect()
}

fn apply(content: &mut [u8], from: usize, damage: &Damage) {
    let room = content.len() - from;
    if room > 0 {
        content[from + usize::from(damage.at) % room] ^= damage.bits;
    }
}

fn raw_files(flushes: &[RawFlush<'_>]) -> Vec<(u64, Vec<u8>)> {
    let mut files = vec![(FILE_SEQUENCE_FIRST, Vec::new())];
    for (nth, raw) in flushes.iter().take(FLUSHES_MAX).enumerate() {
        if raw.next_file {
            files.push((FILE_SEQUENCE_FIRST + files.len() as u64, Vec::new()));
        }
        let (file, content) = files.last_mut().expect("there is one");
        let flush = (FLUSH_SEQUENCE_FIRST + nth as u64).saturating_add_signed(raw.flush_sequence_shift.into());
        content.extend(seal(raw, *file, flush));
        content.resize(content.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    files
}

/// The format of a flush, written down a second time.
fn seal(raw: &RawFlush<'_>, file: u64, flush: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(FLUSH_HEADER_BYTES);
    header.extend(b"\xc7ChrWAL\xa7");
    header.extend(FORMAT_VERSION.to_le_bytes());
    header.extend([0; 6]);
    header.extend((raw.payload.len() as u32).to_le_bytes());
    header.extend(u32::from(raw.record_count).to_le_bytes());
    header.extend(file.to_le_bytes());
    header.extend(flush.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(raw.payload);
    checksum.update(&header[..12]);
    checksum.update(&header[16..]);
    header[12..16].copy_from_slice(&checksum.finalize().to_le_bytes());
    header.extend(raw.payload);
    header
}

/// A row of files as the shard writes it, and the log of each group.
struct Writer {
    files: Vec<(u64, Vec<u8>)>,
    flush: FlushBuilder,
    groups: [GroupState; 3],
    last_flush_at: usize,
}

#[derive(Clone, Copy, Default)]
struct GroupState {
    term: u64,
    first: u64,
    last: u64,
    last_term: u64,
}

impl Writer {
    fn new() -> Writer {
        let flush = FlushBuilder::new(FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST);
        let files = vec![(FILE_SEQUENCE_FIRST, Vec::new())];
        Writer { files, flush, groups: [GroupState::default(); 3], last_flush_at: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { group, entries, bytes } => self.append(group, 1 + entries % 4, bytes % 3000),
            Step::NewTerm { group } => {
                self.groups[usize::from(group % 3)].term += 1;
                self.push_hard_state(group);
            }
            Step::Overwrite { group, back } => {
                let state = &mut self.groups[usize::from(group % 3)];
                let kept = state.last.saturating_sub(u64::from(back % 5)).max(state.first);
                state.term += 1;
                state.last = kept;
                self.append(group, 1, 10);
            }
            Step::Checkpoint { group } => {
                let number = GroupId(u64::from(group % 3));
                let state = &mut self.groups[usize::from(group % 3)];
                if state.last > state.first {
                    state.first = state.last;
                    let (index, term) = (LogIndex(state.last), Term(state.last_term));
                    self.flush.push(Record::Checkpoint { group: number, index, term, state: Bytes::new() });
                }
            }
            Step::Remove { group } => {
                self.groups[usize::from(group % 3)] = GroupState::default();
                self.flush.push(Record::GroupRemoved { group: GroupId(u64::from(group % 3)) });
            }
            Step::Flush => self.write(false),
            Step::NextFile => self.write(true),
        }
    }

    fn append(&mut self, group: u8, entries: u8, bytes: u16) {
        let state = &mut self.groups[usize::from(group % 3)];
        state.term = state.term.max(1);
        state.last_term = state.term;
        let first = state.last + 1;
        state.last += u64::from(entries);
        let (term, last) = (state.term, state.last);
        self.push_hard_state(group);
        for index in first..=last {
            self.flush.push(Record::Entry {
                group: GroupId(u64::from(group % 3)),
                term: Term(term),
                index: LogIndex(index),
                entry_type: 0,
                context: Bytes::from_static(b"context"),
                data: Bytes::from(vec![index as u8; usize::from(bytes)]),
            });
        }
    }

    /// Nothing is known to be committed, so that everything may be replaced.
    fn push_hard_state(&mut self, group: u8) {
        let state = self.groups[usize::from(group % 3)];
        let (group, term) = (GroupId(u64::from(group % 3)), Term(state.term));
        self.flush.push(Record::HardState { group, term, vote: 1, commit: LogIndex(state.first) });
    }

    fn write(&mut self, next_file: bool) {
        if self.flush.is_empty() {
            return;
        }
        let (file, sequence) = (self.flush.file_sequence(), self.flush.flush_sequence());
        let next = file + u64::from(next_file);
        let flush = std::mem::replace(&mut self.flush, FlushBuilder::new(next, sequence + 1)).finish();
        let (_, content) = self.files.last_mut().expect("there is one");
        self.last_flush_at = content.len();
        for part in &flush.parts {
            content.extend_from_slice(part);
        }
        if next_file {
            self.files.push((next, Vec::new()));
        }
    }
}

/// A torn last flush takes away itself at most.
fn check_torn(steps: &[Step], damage: &[Damage]) {
    let mut writer = Writer::new();
    let mut before = None;
    for step in steps.iter().take(4 * FLUSHES_MAX) {
        let flush = writer.flush.flush_sequence();
        let files = writer.files.clone();
        writer.step(step);
        if writer.flush.flush_sequence() > flush {
            before = Some(files);
        }
    }
    let Some(before) = before else { return };
    // A file for the next flush may be there, and empty.
    let last = writer.files.iter().rposition(|(_, content)| !content.is_empty()).expect("a flush was written");
    let whole = recover(&contents(&writer.files)).expect("an undamaged log is read");
    check(&writer.files);
    let without = recover(&contents(&before)).expect("a log without its last flush is read");
    let mut files = writer.files.clone();
    for damage in damage {
        apply(&mut files[last].1, writer.last_flush_at, damage);
    }
    let torn = recover(&contents(&files)).expect("a torn tail is no reason to refuse");
    assert!(
        torn.groups == whole.groups || torn.groups == without.groups,
        "a flush counts as a whole or not at all"
    );
    let zeroes = vec![0; FILE_BLOCKS * BLOCK_BYTES];
    files[last].1.extend(zeroes);
    assert_eq!(recover(&contents(&files)).expect("unwritten blocks follow").groups, torn.groups);
}
