//! Where the log ends, whether that end is a torn tail or damage, and what stands before it.

use std::collections::BTreeMap;
use std::collections::btree_map;

use types::mutants::{Mutant, is_planted};
use types::{GroupId, LogIndex};

use super::flush::{FORMAT_VERSION, FlushView, flushes_if};
use super::ledger::FileLedger;
use super::record::RecordRef;
use super::replay::{GroupReplay, RecoveredGroup};
use super::{FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST};

/// One WAL file as it was read from the disk.
#[derive(Clone, Debug)]
pub struct WalFileContent<'a> {
    /// The sequence number in its name, from [`FILE_SEQUENCE_FIRST`] on.
    pub sequence: u64,
    /// The name that errors report.
    pub name: String,
    /// All its bytes.
    pub content: &'a [u8],
}

/// What a WAL holds.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every group that was not removed.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Above every file that is present: the number of the next file that is made or recycled.
    pub next_file_sequence: u64,
    /// The number of the next flush.
    pub next_flush_sequence: u64,
    /// All files that are present, ascending. Those with `used_bytes` 0 are spare and stand at the end; they are
    /// written in this order before `next_file_sequence` is used. The log goes on at `used_bytes` of the
    /// last used file or at the start of the file after it.
    pub files: Vec<RecoveredFile>,
    /// Which file is needed by whom.
    pub ledger: FileLedger,
}

/// A file that recovery has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredFile {
    /// The number in its name.
    pub sequence: u64,
    /// The bytes from its start that hold flushes of the log: a multiple of
    /// [`BLOCK_BYTES`](types::limits::BLOCK_BYTES).
    pub used_bytes: u64,
    /// The highest index that was written to it, of each group with entries in it. Later files may have
    /// replaced those entries; the [`FileLedger`] knows.
    pub highest: BTreeMap<GroupId, LogIndex>,
}

/// Why a WAL cannot be recovered. In each case nothing was changed, and an operator has to decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A valid flush stands behind the place where the log breaks off, so what is missing there was
    /// acknowledged.
    #[error(
        "WAL file {file} is damaged at byte {position}: flush {expected_flush} belongs there, but no valid one \
         stands there, although flush {found_flush}, written later, is intact in {found_file} at byte \
         {found_position}; data that was acknowledged is missing or unreadable"
    )]
    Damaged {
        /// The file in which the log breaks off.
        file: String,
        /// The byte in it where the next flush should stand.
        position: u64,
        /// The number of the flush that should stand there or at the start of the next file.
        expected_flush: u64,
        /// The number of the first intact flush behind.
        found_flush: u64,
        /// The file of that flush.
        found_file: String,
        /// Where in that file it starts.
        found_position: u64,
    },
    /// The oldest file must begin with a flush of its own and does not, so the beginning of the log is
    /// missing or unreadable.
    #[error(
        "the WAL does not begin with a valid flush: its oldest file {file} has none at byte 0 and cannot be \
         unused, because {evidence}; data that was acknowledged is missing or unreadable"
    )]
    BeginningDamaged {
        /// The oldest file that is present.
        file: String,
        /// How it is known that the file was written.
        evidence: String,
    },
    /// Two files carry one sequence number.
    #[error("WAL files {first} and {second} have the same sequence number")]
    DuplicateFile {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// An intact flush was written by another version of the broker.
    #[error(
        "WAL file {file} holds a flush of format version {version} at byte {position}, which this version cannot read"
    )]
    UnsupportedVersion {
        /// The file.
        file: String,
        /// Where in the file the flush starts.
        position: u64,
        /// The flush's format version.
        version: u16,
    },
    /// A flush has the right checksum and senseless content.
    #[error("WAL file {file} holds a flush at byte {position} that cannot be read: {why}")]
    Malformed {
        /// The file.
        file: String,
        /// Where in the file the flush starts.
        position: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The records of a group contradict each other.
    #[error("the WAL's records of group {group} are inconsistent: {why}")]
    Inconsistent {
        /// The group.
        group: GroupId,
        /// The contradiction.
        why: &'static str,
    },
}

/// Reads the WAL of one shard from all its files, in any order.
///
/// The log ends where no valid flush with the expected file and flush sequence stands. That is a torn tail,
/// unless a valid flush that was written later is found behind it. Flushes left in a recycled file from its
/// former life are ignored. Files that are missing at the old end were recycled.
///
/// Panics on no content whatever; takes time linear in the files' bytes.
///
/// # Errors
///
/// See [`RecoveryError`].
pub fn recover(files: &[WalFileContent<'_>]) -> Result<Recovered, RecoveryError> {
    let files = in_order(files)?;
    let chain = follow_flushes(&files)?;
    let mut recovered_files: Vec<_> = files
        .iter()
        .map(|file| RecoveredFile { sequence: file.sequence, used_bytes: 0, highest: BTreeMap::new() })
        .collect();
    let mut groups: BTreeMap<GroupId, GroupReplay<'_>> = BTreeMap::new();
    let mut ledger = FileLedger::new();
    for (file_number, flush) in &chain.flushes {
        let file = files[*file_number];
        let recovered_file = &mut recovered_files[*file_number];
        recovered_file.used_bytes = (flush.position + flush.bytes) as u64;
        for record in read_records(file, flush)? {
            if let RecordRef::Entry { group, index, .. } = record {
                let highest = recovered_file.highest.entry(group).or_default();
                *highest = index.max(*highest);
            }
            replay_record(&mut groups, file.sequence, &record)?;
            ledger.on_record(file.sequence, &record);
        }
    }
    let groups = groups
        .into_iter()
        .map(|(group, replay)| Ok((group, replay.finish().map_err(|why| inconsistent(group, why))?)))
        .collect::<Result<BTreeMap<_, _>, RecoveryError>>()?;
    let next_file_sequence = match files.last() {
        Some(newest) => newest.sequence.checked_add(1).ok_or_else(|| RecoveryError::Malformed {
            file: newest.name.clone(),
            position: 0,
            why: "its sequence number is the last one there is",
        })?,
        None => FILE_SEQUENCE_FIRST,
    };
    let next_flush_sequence = chain.next_flush_sequence;
    Ok(Recovered { groups, next_file_sequence, next_flush_sequence, files: recovered_files, ledger })
}

fn in_order<'f, 'a>(files: &'f [WalFileContent<'a>]) -> Result<Vec<&'f WalFileContent<'a>>, RecoveryError> {
    let mut files: Vec<_> = files.iter().collect();
    files.sort_by_key(|file| file.sequence);
    match files.windows(2).find(|pair| pair[0].sequence == pair[1].sequence) {
        Some(pair) => {
            Err(RecoveryError::DuplicateFile { first: pair[0].name.clone(), second: pair[1].name.clone() })
        }
        None => Ok(files),
    }
}

/// The flushes of the log, each with the place of its file in the row of files.
struct Chain<'a> {
    flushes: Vec<(usize, FlushView<'a>)>,
    next_flush_sequence: u64,
}

fn follow_flushes<'a>(files: &[&WalFileContent<'a>]) -> Result<Chain<'a>, RecoveryError> {
    let Some((oldest, _)) = files.split_first() else {
        return Ok(Chain { flushes: Vec::new(), next_flush_sequence: FLUSH_SEQUENCE_FIRST });
    };
    let Some(first) = own_flush_at(oldest, 0, |_| true) else {
        return begin_empty(files);
    };
    let mut expected = first.flush_sequence;
    let mut flushes = Vec::new();
    let (mut file_number, mut position) = (0, 0);
    loop {
        let file = files[file_number];
        while let Some(flush) = own_flush_at(file, position, |sequence| sequence == expected) {
            expected = expected.checked_add(1).ok_or_else(|| RecoveryError::Malformed {
                file: file.name.clone(),
                position: position as u64,
                why: "its sequence number is the last one there is",
            })?;
            position += flush.bytes;
            flushes.push((file_number, flush));
        }
        // A flush that was torn at the end of a file leaves its number to the first flush of a later one.
        let continuation = (file_number + 1..files.len())
            .find(|later| own_flush_at(files[*later], 0, |sequence| sequence == expected).is_some());
        let Some(later) = continuation else { break };
        (file_number, position) = (later, 0);
    }
    match first_flush_behind(files, file_number, position, expected) {
        Some((found_file, found)) if !is_planted(Mutant::DamageTakenForTail) => Err(RecoveryError::Damaged {
            file: files[file_number].name.clone(),
            position: position as u64,
            expected_flush: expected,
            found_flush: found.flush_sequence,
            found_file: found_file.name.clone(),
            found_position: found.position as u64,
        }),
        Some(_) | None => Ok(Chain { flushes, next_flush_sequence: expected }),
    }
}

/// The oldest file has no flush to begin with: right only for a WAL that was never written.
fn begin_empty<'a>(files: &[&WalFileContent<'a>]) -> Result<Chain<'a>, RecoveryError> {
    let oldest = files[0];
    let evidence = if let Some((file, flush)) = first_flush_behind(files, 0, 0, 0) {
        Some(format!("flush {} is intact in {} at byte {}", flush.flush_sequence, file.name, flush.position))
    } else if oldest.sequence > FILE_SEQUENCE_FIRST {
        Some("older files were recycled or removed".to_owned())
    } else {
        None
    };
    match evidence {
        Some(evidence) => Err(RecoveryError::BeginningDamaged { file: oldest.name.clone(), evidence }),
        None => Ok(Chain { flushes: Vec::new(), next_flush_sequence: FLUSH_SEQUENCE_FIRST }),
    }
}

fn own_flush_at<'a>(
    file: &WalFileContent<'a>,
    position: usize,
    is_expected: impl Fn(u64) -> bool,
) -> Option<FlushView<'a>> {
    FlushView::at_if(file.content, position, |file_sequence, flush_sequence| {
        file_sequence == file.sequence && is_expected(flush_sequence)
    })
}

/// The first valid flush of the log itself from the place given on that was written at `expected` or later.
fn first_flush_behind<'f, 'a>(
    files: &[&'f WalFileContent<'a>],
    file_number: usize,
    position: usize,
    expected: u64,
) -> Option<(&'f WalFileContent<'a>, FlushView<'a>)> {
    files.iter().enumerate().skip(file_number).find_map(|(number, file)| {
        let start = if number == file_number { position } else { 0 };
        let is_later =
            |file_sequence, flush_sequence| file_sequence == file.sequence && flush_sequence >= expected;
        flushes_if(file.content, start, is_later).next().map(|flush| (*file, flush))
    })
}

fn read_records<'c>(
    file: &WalFileContent<'_>,
    flush: &'c FlushView<'_>,
) -> Result<Vec<RecordRef<'c>>, RecoveryError> {
    if flush.version != FORMAT_VERSION {
        return Err(RecoveryError::UnsupportedVersion {
            file: file.name.clone(),
            position: flush.position as u64,
            version: flush.version,
        });
    }
    flush.records().ok_or_else(|| RecoveryError::Malformed {
        file: file.name.clone(),
        position: flush.position as u64,
        why: "its checksum is right, but its payload is not a row of records",
    })
}

fn replay_record<'c>(
    groups: &mut BTreeMap<GroupId, GroupReplay<'c>>,
    file_sequence: u64,
    record: &RecordRef<'c>,
) -> Result<(), RecoveryError> {
    let group = record.group();
    match (record, groups.entry(group)) {
        (RecordRef::GroupRemoved { .. }, btree_map::Entry::Occupied(present)) => {
            present.remove();
            Ok(())
        }
        (RecordRef::GroupRemoved { .. }, btree_map::Entry::Vacant(_)) => Ok(()),
        (_, present) => {
            present.or_default().on_record(file_sequence, record).map_err(|why| inconsistent(group, why))
        }
    }
}

fn inconsistent(group: GroupId, why: &'static str) -> RecoveryError {
    RecoveryError::Inconsistent { group, why }
}
