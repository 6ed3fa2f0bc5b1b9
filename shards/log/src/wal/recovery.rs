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

/// Reads the WAL of one shard from all its files, in any order. See [`Recovery`].
///
/// # Errors
///
/// See [`RecoveryError`].
pub fn recover(files: &[WalFileContent<'_>]) -> Result<Recovered, RecoveryError> {
    let mut files: Vec<_> = files.iter().collect();
    files.sort_by_key(|file| file.sequence);
    let mut recovery = Recovery::default();
    for file in files {
        recovery.read(file)?;
    }
    recovery.finish()
}

/// Reads the WAL of one shard, one file after the other, so that one at a time need be in memory.
///
/// The log ends where no valid flush with the expected file and flush sequence stands. That is a torn tail,
/// unless a valid flush that was written later is found behind it. Flushes left in a recycled file from its
/// former life are ignored. Files that are missing at the old end were recycled.
///
/// No content makes it panic; it takes time linear in the files' bytes.
#[derive(Debug, Default)]
pub struct Recovery {
    progress: Progress,
    files: Vec<RecoveredFile>,
    groups: BTreeMap<GroupId, GroupReplay>,
    ledger: FileLedger,
    /// The file that was read last.
    last_name: String,
    /// What is wrong with the records. It is told only of a log without damage, which explains it.
    failed: Option<RecoveryError>,
}

/// How far the log has been followed.
#[derive(Debug, Default)]
enum Progress {
    #[default]
    NothingRead,
    /// The oldest file has no flush to begin with.
    NotBegun { oldest: String, oldest_sequence: u64, written: Option<Place> },
    /// `expected` is the number of the next flush, which belongs at `end` or at the start of a later file.
    Followed {
        expected: u64,
        end: (String, u64),
        /// The first valid flush behind that was written later.
        behind: Option<Place>,
    },
}

/// Where an intact flush stands.
#[derive(Debug)]
struct Place {
    flush: u64,
    file: String,
    position: u64,
}

impl Recovery {
    /// Takes the next file.
    ///
    /// # Panics
    ///
    /// If files do not come in the order of their numbers.
    ///
    /// # Errors
    ///
    /// [`RecoveryError::DuplicateFile`]; [`RecoveryError::Malformed`] where there is no number after a flush's.
    pub fn read(&mut self, file: &WalFileContent<'_>) -> Result<(), RecoveryError> {
        if let Some(previous) = self.files.last() {
            assert!(previous.sequence <= file.sequence, "files are read in their order");
            if previous.sequence == file.sequence {
                let (first, second) = (self.last_name.clone(), file.name.clone());
                return Err(RecoveryError::DuplicateFile { first, second });
            }
        }
        self.last_name.clone_from(&file.name);
        self.files.push(RecoveredFile { sequence: file.sequence, used_bytes: 0, highest: BTreeMap::new() });
        match &mut self.progress {
            Progress::NothingRead => match own_flush_at(file, 0, |_| true) {
                Some(first) => self.follow(file, first.flush_sequence)?,
                None => {
                    let (oldest, oldest_sequence) = (file.name.clone(), file.sequence);
                    let written = first_flush_from(file, 0, 0);
                    self.progress = Progress::NotBegun { oldest, oldest_sequence, written };
                }
            },
            Progress::NotBegun { written, .. } => {
                if written.is_none() {
                    *written = first_flush_from(file, 0, 0);
                }
            }
            Progress::Followed { expected, behind, .. } => {
                // A flush that was torn at the end of a file leaves its number to the first flush of a later one.
                let expected = *expected;
                if own_flush_at(file, 0, |sequence| sequence == expected).is_some() {
                    self.follow(file, expected)?;
                } else if behind.is_none() {
                    *behind = first_flush_from(file, 0, expected);
                }
            }
        }
        Ok(())
    }

    /// Replays the flushes of the last file, of which the first one has the number that is expected.
    fn follow(&mut self, file: &WalFileContent<'_>, mut expected: u64) -> Result<(), RecoveryError> {
        let mut position = 0;
        while let Some(flush) = own_flush_at(file, position, |sequence| sequence == expected) {
            expected = expected.checked_add(1).ok_or_else(|| RecoveryError::Malformed {
                file: file.name.clone(),
                position: position as u64,
                why: "its sequence number is the last one there is",
            })?;
            position += flush.bytes;
            if self.failed.is_none() {
                self.failed = self.replay(file, &flush).err();
            }
        }
        let behind = first_flush_from(file, position, expected);
        let end = (file.name.clone(), position as u64);
        self.progress = Progress::Followed { expected, end, behind };
        Ok(())
    }

    fn replay(&mut self, file: &WalFileContent<'_>, flush: &FlushView<'_>) -> Result<(), RecoveryError> {
        let recovered = self.files.last_mut().expect("the file was just added");
        recovered.used_bytes = (flush.position + flush.bytes) as u64;
        for record in read_records(file, flush)? {
            if let RecordRef::Entry { group, index, .. } = record {
                let highest = recovered.highest.entry(group).or_default();
                *highest = index.max(*highest);
            }
            replay_record(&mut self.groups, file.sequence, &record)?;
            self.ledger.on_record(file.sequence, &record);
        }
        Ok(())
    }

    /// There are no more files.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn finish(self) -> Result<Recovered, RecoveryError> {
        let next_flush_sequence = self.progress.next_flush_sequence()?;
        if let Some(error) = self.failed {
            return Err(error);
        }
        let groups = self
            .groups
            .into_iter()
            .map(|(group, replay)| Ok((group, replay.finish().map_err(|why| inconsistent(group, why))?)))
            .collect::<Result<BTreeMap<_, _>, RecoveryError>>()?;
        let next_file_sequence = match self.files.last() {
            Some(newest) => newest.sequence.checked_add(1).ok_or_else(|| RecoveryError::Malformed {
                file: self.last_name.clone(),
                position: 0,
                why: "its sequence number is the last one there is",
            })?,
            None => FILE_SEQUENCE_FIRST,
        };
        Ok(Recovered {
            groups,
            next_file_sequence,
            next_flush_sequence,
            files: self.files,
            ledger: self.ledger,
        })
    }
}

impl Progress {
    /// The number of the next flush, if what was read is a whole log.
    fn next_flush_sequence(self) -> Result<u64, RecoveryError> {
        match self {
            Progress::NothingRead => Ok(FLUSH_SEQUENCE_FIRST),
            // Right only for a WAL that was never written.
            Progress::NotBegun { oldest, oldest_sequence, written } => {
                let evidence = if let Some(Place { flush, file, position }) = written {
                    format!("flush {flush} is intact in {file} at byte {position}")
                } else if oldest_sequence > FILE_SEQUENCE_FIRST {
                    "older files were recycled or removed".to_owned()
                } else {
                    return Ok(FLUSH_SEQUENCE_FIRST);
                };
                Err(RecoveryError::BeginningDamaged { file: oldest, evidence })
            }
            Progress::Followed { expected, end: (file, position), behind: Some(found) }
                if !is_planted(Mutant::DamageTakenForTail) =>
            {
                Err(RecoveryError::Damaged {
                    file,
                    position,
                    expected_flush: expected,
                    found_flush: found.flush,
                    found_file: found.file,
                    found_position: found.position,
                })
            }
            Progress::Followed { expected, .. } => Ok(expected),
        }
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

/// The first valid flush of the log itself in a file, from the position on, that was written at `expected` or later.
fn first_flush_from(file: &WalFileContent<'_>, position: usize, expected: u64) -> Option<Place> {
    let is_later =
        |file_sequence, flush_sequence| file_sequence == file.sequence && flush_sequence >= expected;
    let flush = flushes_if(file.content, position, is_later).next()?;
    Some(Place { flush: flush.flush_sequence, file: file.name.clone(), position: flush.position as u64 })
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

fn replay_record(
    groups: &mut BTreeMap<GroupId, GroupReplay>,
    file_sequence: u64,
    record: &RecordRef<'_>,
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
