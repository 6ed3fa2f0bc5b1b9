//! The disk of one node: what is on it, and what a crash leaves of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use shard::{DiskAnswer, DiskError, DiskRequest};
use types::limits::{BLOCK_BYTES, WAL_FILE_BYTES};
use types::{GroupId, Offset, ShardId, ShardLayout};

use crate::random::Random;

/// A WAL file. What is behind `content` is zeroes.
#[derive(Clone, Debug, Default)]
pub struct WalFile {
    /// The bytes up to the last one that was ever written.
    pub content: Vec<u8>,
}

/// A segment with its indexes.
#[derive(Clone, Debug, Default)]
pub struct SegmentFiles {
    /// The `.log` file.
    pub log: Vec<u8>,
    /// The `.index` file.
    pub offsets: IndexFile,
    /// The `.timeindex` file.
    pub times: IndexFile,
}

/// An index file, which is written without a flush.
#[derive(Clone, Debug, Default)]
pub struct IndexFile {
    /// Its bytes.
    pub content: Vec<u8>,
    /// How many of them survive a crash for sure.
    stable: usize,
}

/// The folder of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupFolder {
    /// `partition.metadata`, where it was made.
    pub description: Option<String>,
    /// By base offset.
    pub segments: BTreeMap<Offset, SegmentFiles>,
}

/// A change of the WAL's files that is under way.
#[derive(Clone, Debug)]
pub enum WalWork {
    /// A new file.
    Create {
        /// Its number.
        file: u64,
    },
    /// A file that gets another number.
    Recycle {
        /// The old number.
        from: u64,
        /// The new one.
        file: u64,
    },
    /// A flush.
    Write {
        /// To this file.
        file: u64,
        /// At this place.
        position: u64,
        /// These bytes.
        parts: Vec<Bytes>,
    },
}

/// Everything durable of one node. Lives through crashes.
#[derive(Debug, Default)]
pub struct Disk {
    /// The WAL of each shard, by file number.
    pub wals: BTreeMap<ShardId, BTreeMap<u64, WalFile>>,
    /// The segments.
    pub groups: BTreeMap<GroupId, GroupFolder>,
    /// How groups are spread over `wals`.
    pub layout: Option<ShardLayout>,
    /// Whether the file system is full.
    pub is_full: bool,
}

impl Disk {
    /// Carries out a change of a WAL.
    pub fn complete_wal(&mut self, shard: ShardId, work: &WalWork) -> Result<(), DiskError> {
        let files = self.wals.entry(shard).or_default();
        match work {
            WalWork::Create { .. } if self.is_full => return Err(DiskError::NoSpace),
            WalWork::Create { file } => {
                let before = files.insert(*file, WalFile::default());
                assert!(before.is_none(), "WAL file {file} is made twice");
            }
            WalWork::Recycle { from, file } => {
                let recycled = files.remove(from).expect("a recycled file exists");
                let before = files.insert(*file, recycled);
                assert!(before.is_none(), "WAL file {file} is there already");
            }
            WalWork::Write { file, position, parts } => {
                let file = files.get_mut(file).expect("a written file exists");
                write_at(&mut file.content, *position, parts);
                assert!(file.content.len() as u64 <= WAL_FILE_BYTES, "a flush fits its file");
            }
        }
        Ok(())
    }

    /// What a power failure leaves of a change of a WAL: all of it, nothing, or some of its blocks.
    pub fn tear_wal(&mut self, shard: ShardId, work: &WalWork, random: &mut Random) {
        match work {
            WalWork::Write { file, position, parts } => {
                let content = parts.concat();
                let blocks = content.len() / BLOCK_BYTES;
                let file = self.wals.entry(shard).or_default().get_mut(file).expect("a written file exists");
                let prefix = random.index(blocks + 1);
                let mode = random.below(4);
                for (number, block) in content.chunks(BLOCK_BYTES).enumerate() {
                    let is_written = match mode {
                        0 => false,
                        1 => true,
                        2 => number < prefix,
                        _ => random.percent(50),
                    };
                    if is_written {
                        let at = position + (number * BLOCK_BYTES) as u64;
                        write_at(&mut file.content, at, &[Bytes::copy_from_slice(block)]);
                    }
                }
            }
            WalWork::Create { .. } | WalWork::Recycle { .. } if random.percent(50) => {
                // Space is not asked for: the file may have been made before it ran out.
                let was_full = std::mem::replace(&mut self.is_full, false);
                self.complete_wal(shard, work).expect("there is space");
                self.is_full = was_full;
            }
            WalWork::Create { .. } | WalWork::Recycle { .. } => {}
        }
    }

    /// Carries out a request on segments.
    pub fn complete(&mut self, request: &DiskRequest) -> Result<DiskAnswer, DiskError> {
        match request {
            DiskRequest::CreateGroup { .. } | DiskRequest::AppendSegment { .. } if self.is_full => {
                Err(DiskError::NoSpace)
            }
            DiskRequest::CreateGroup { group, description, segments } => {
                let folder = self.groups.entry(*group).or_default();
                folder.segments.retain(|segment, _| segments.contains(segment));
                folder.description.get_or_insert_with(|| description.clone());
                Ok(DiskAnswer::Done)
            }
            DiskRequest::RemoveGroup { group } => {
                self.groups.remove(group);
                Ok(DiskAnswer::Done)
            }
            DiskRequest::AppendSegment { group, segment, position, data, offsets, times, .. } => {
                let Some(folder) = self.groups.get_mut(group) else {
                    return Err(DiskError::Failed(format!("there is no folder for group {group}")));
                };
                let files = folder.segments.entry(*segment).or_default();
                let at = usize::try_from(*position).expect("a segment fits memory");
                assert!(at <= files.log.len(), "segment {segment} of group {group} would get a hole");
                files.log.truncate(at);
                data.iter().for_each(|part| files.log.extend_from_slice(part));
                files.offsets.append(offsets);
                files.times.append(times);
                if data.is_empty() {
                    files.offsets.stable = files.offsets.content.len();
                    files.times.stable = files.times.content.len();
                }
                Ok(DiskAnswer::Done)
            }
            DiskRequest::RemoveSegments { group, segments } => {
                if let Some(folder) = self.groups.get_mut(group) {
                    segments.iter().for_each(|segment| {
                        folder.segments.remove(segment);
                    });
                }
                Ok(DiskAnswer::Done)
            }
            DiskRequest::ReadSegment { group, segment, position, length } => {
                let files = self.segment(*group, *segment)?;
                let start = usize::try_from(*position).expect("a segment fits memory").min(files.log.len());
                let end = files.log.len().min(start + length);
                Ok(DiskAnswer::Bytes(Bytes::copy_from_slice(&files.log[start..end])))
            }
            DiskRequest::ReadIndexes { group, segment } => {
                let files = self.segment(*group, *segment)?;
                let own = |file: &IndexFile| Bytes::copy_from_slice(&file.content);
                Ok(DiskAnswer::Indexes { offsets: own(&files.offsets), times: own(&files.times) })
            }
            DiskRequest::MeasureSpace => Ok(DiskAnswer::Space { total_bytes: 0, usable_bytes: 0 }),
        }
    }

    fn segment(&self, group: GroupId, segment: Offset) -> Result<&SegmentFiles, DiskError> {
        let found = self.groups.get(&group).and_then(|folder| folder.segments.get(&segment));
        found.ok_or_else(|| DiskError::Failed(format!("there is no segment {segment} of group {group}")))
    }

    /// What a power failure leaves of a request on segments. No byte before the position of an append changes.
    pub fn tear(&mut self, request: &DiskRequest, random: &mut Random) {
        match request {
            DiskRequest::AppendSegment { group, segment, position, data, .. } => {
                let Some(folder) = self.groups.get_mut(group) else { return };
                if *position == 0 && random.percent(30) {
                    return;
                }
                let log = &mut folder.segments.entry(*segment).or_default().log;
                log.truncate(usize::try_from(*position).expect("a segment fits memory"));
                let content = data.concat();
                let length = random.index(content.len() + 1);
                match random.below(4) {
                    0 => {}
                    1 => log.extend_from_slice(&content[..length]),
                    2 => log.resize(log.len() + length, 0),
                    _ => log.extend_from_slice(&content),
                }
            }
            DiskRequest::RemoveSegments { group, segments } => {
                if let Some(folder) = self.groups.get_mut(group) {
                    segments.iter().filter(|_| random.percent(50)).for_each(|segment| {
                        folder.segments.remove(segment);
                    });
                }
            }
            DiskRequest::RemoveGroup { group } => {
                if let Some(folder) = self.groups.get_mut(group) {
                    folder.segments.retain(|_, _| random.percent(50));
                }
            }
            DiskRequest::CreateGroup { group, segments, .. } => {
                if random.percent(50) && !self.is_full {
                    let folder = self.groups.entry(*group).or_default();
                    folder.segments.retain(|segment, _| segments.contains(segment) || random.percent(50));
                }
            }
            DiskRequest::ReadSegment { .. } | DiskRequest::ReadIndexes { .. } | DiskRequest::MeasureSpace => {
            }
        }
    }

    /// What a power failure leaves of files that were written without a flush.
    pub fn lose_unsynced(&mut self, random: &mut Random) {
        for files in self.groups.values_mut().flat_map(|folder| folder.segments.values_mut()) {
            files.offsets.lose_unsynced(random);
            files.times.lose_unsynced(random);
        }
    }
}

impl IndexFile {
    fn append(&mut self, (position, entries): &(u64, Bytes)) {
        let at = usize::try_from(*position).expect("an index fits memory");
        self.content.resize(at, 0);
        self.content.extend_from_slice(entries);
        self.stable = self.stable.min(at);
    }

    fn lose_unsynced(&mut self, random: &mut Random) {
        let keep = self.stable + random.index(self.content.len() - self.stable + 1);
        match random.below(3) {
            0 => self.content.truncate(keep),
            // The length survived, the blocks did not.
            1 => self.content[keep..].fill(0),
            _ => {}
        }
        self.stable = self.content.len();
    }
}

fn write_at(content: &mut Vec<u8>, position: u64, parts: &[Bytes]) {
    let mut at = usize::try_from(position).expect("a WAL file fits memory");
    for part in parts {
        if content.len() < at + part.len() {
            content.resize(at + part.len(), 0);
        }
        content[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
}
