//! Moving groups to other WALs when the number of shards has changed, so that a crash at any point leaves a
//! data directory that the next start understands.
//!
//! A complete set of WALs is a folder with `shard-0` to `shard-<n-1>` and, written last, a file `shards` that says
//! n. A new set is made in `wal.new` and takes the place of `wal` by two renames:
//!
//! | there is | then |
//! |--|--|
//! | nothing | an empty set is made |
//! | `wal` | it is used, or regrouped when n differs |
//! | an incomplete `wal.new`, with or without `wal` | `wal.new` was never used and is removed |
//! | `wal` and a complete `wal.new` | nothing was written to `wal` since; the renames are made |
//! | a complete `wal.new`, `wal.old` | the second rename is made |
//! | `wal` and `wal.old` | `wal.old` is removed |
//!
//! Anything else is refused: it could only be taken for a start without data that was acknowledged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::wal::{FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST, FlushBuilder, Record, RecoveredGroup, file_name};
use types::limits::{WAL_FILE_BYTES, WAL_FLUSH_BYTES_MAX};
use types::{GroupId, ShardId};

use crate::data_dir::sync_dir;
use crate::error::{StartError, file_error};
use crate::wal_dir::{recover_wal, shard_folder, wal_folder};

const COUNT_FILE: &str = "shards";

/// Leaves `wal` complete, with one WAL for each of `shards` shards and every group in that of its shard.
pub(crate) fn prepare_wals(
    data_dir: &Path,
    shards: u16,
    shard_of: &dyn Fn(GroupId) -> ShardId,
) -> Result<(), StartError> {
    let folders = Folders::of(data_dir);
    folders.finish_swap()?;
    if !folders.current.exists() {
        folders.refuse_lost_wal()?;
        folders.make(shards, shard_of, 0)?;
        return folders.swap();
    }
    let present = complete_set(&folders.current)?;
    if present != shards {
        tracing::info!(from = present, to = shards, "moving groups to the WALs of another number of shards");
        folders.make(shards, shard_of, present)?;
        folders.swap()?;
    }
    Ok(())
}

struct Folders {
    data_dir: PathBuf,
    current: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Folders {
    fn of(data_dir: &Path) -> Folders {
        Folders {
            data_dir: data_dir.to_owned(),
            current: wal_folder(data_dir),
            new: data_dir.join("wal.new"),
            old: data_dir.join("wal.old"),
        }
    }

    /// Takes up what a crash has left, as the table above says.
    fn finish_swap(&self) -> Result<(), StartError> {
        if self.new.join(COUNT_FILE).exists() {
            complete_set(&self.new)?;
            return self.swap();
        }
        if self.old.exists() && !self.current.exists() {
            let why = "wal.old is there, but neither wal nor a complete wal.new".to_owned();
            return Err(StartError::Layout { path: self.data_dir.clone(), why });
        }
        remove_folder(&self.new)?;
        remove_folder(&self.old)
    }

    /// Segments without a WAL: the disk under the WAL is not mounted, or somebody removed it.
    fn refuse_lost_wal(&self) -> Result<(), StartError> {
        let groups = crate::groups::groups_folder(&self.data_dir);
        match fs::read_dir(&groups).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                let why = "there are groups, but the folder wal is missing".to_owned();
                Err(StartError::Layout { path: self.data_dir.clone(), why })
            }
            Ok(false) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(file_error("list", groups)(error)),
        }
    }

    /// Makes a complete set in `wal.new` of the groups in the `present` WALs of `wal`.
    fn make(
        &self,
        shards: u16,
        shard_of: &dyn Fn(GroupId) -> ShardId,
        present: u16,
    ) -> Result<(), StartError> {
        fs::create_dir(&self.new).map_err(file_error("create", &self.new))?;
        let mut writers = (0..shards)
            .map(|shard| WalWriter::create(shard_folder(&self.new, shard)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        for old_shard in 0..present {
            let recovered = recover_wal(&shard_folder(&self.current, old_shard), old_shard)?;
            for (group, content) in recovered.groups {
                if !seen.insert(group) {
                    let why = format!("group {group} stands in two WALs");
                    return Err(StartError::Layout { path: self.current.clone(), why });
                }
                let shard = shard_of(group);
                let writer = writers.get_mut(usize::from(shard.0));
                writer.expect("a group's shard is one of those there are").write_group(group, content)?;
            }
        }
        for writer in writers {
            writer.finish()?;
        }
        // Last, and after everything else is durable: from here on the set counts.
        let count = self.new.join(COUNT_FILE);
        let written = File::create(&count).and_then(|mut file| {
            file.write_all(format!("{shards}\n").as_bytes())?;
            file.sync_all()
        });
        written.map_err(file_error("write", &count))?;
        sync_dir(&self.new)?;
        sync_dir(&self.data_dir)
    }

    /// Puts `wal.new` in the place of `wal`; makes only those steps that are still to be made.
    fn swap(&self) -> Result<(), StartError> {
        if self.current.exists() {
            // A leftover of an earlier swap would stop the rename.
            remove_folder(&self.old)?;
            fs::rename(&self.current, &self.old).map_err(file_error("rename", &self.current))?;
            sync_dir(&self.data_dir)?;
        }
        fs::rename(&self.new, &self.current).map_err(file_error("rename", &self.new))?;
        sync_dir(&self.data_dir)?;
        remove_folder(&self.old)
    }
}

/// How many WALs a complete set has.
fn complete_set(wal: &Path) -> Result<u16, StartError> {
    let layout = |why: String| StartError::Layout { path: wal.to_owned(), why };
    let count = fs::read_to_string(wal.join(COUNT_FILE))
        .map_err(|error| layout(format!("the file {COUNT_FILE} cannot be read ({error})")))?;
    let count = count
        .trim()
        .parse::<u16>()
        .map_err(|_| layout(format!("the file {COUNT_FILE} holds {count:?}, not a number of shards")))?;
    for entry in fs::read_dir(wal).map_err(file_error("list", wal))? {
        let name = entry.map_err(file_error("list", wal))?.file_name().to_string_lossy().into_owned();
        let is_known = name == COUNT_FILE || (0..count).any(|shard| name == format!("shard-{shard}"));
        if !is_known {
            return Err(layout(format!("{name} does not belong to {count} shards")));
        }
    }
    match (0..count).find(|shard| !shard_folder(wal, *shard).is_dir()) {
        Some(missing) => Err(layout(format!("shard-{missing} of {count} is missing"))),
        None => Ok(count),
    }
}

/// Removes a folder with all in it; done if it is not there.
fn remove_folder(path: &Path) -> Result<(), StartError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a WAL from its beginning.
struct WalWriter {
    folder: PathBuf,
    file: Option<File>,
    file_sequence: u64,
    position: u64,
    flush: FlushBuilder,
}

impl WalWriter {
    fn create(folder: PathBuf) -> Result<WalWriter, StartError> {
        fs::create_dir(&folder).map_err(file_error("create", &folder))?;
        let flush = FlushBuilder::new(FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST);
        Ok(WalWriter { folder, file: None, file_sequence: FILE_SEQUENCE_FIRST, position: 0, flush })
    }

    fn write_group(&mut self, group: GroupId, content: RecoveredGroup) -> Result<(), StartError> {
        let RecoveredGroup { term, vote, commit, checkpoint, entries, .. } = content;
        if let Some(checkpoint) = checkpoint {
            let (index, term, state) = (checkpoint.index, checkpoint.term, checkpoint.state);
            self.push(Record::Checkpoint { group, index, term, state })?;
        }
        self.push(Record::HardState { group, term, vote, commit })?;
        for entry in entries {
            self.push(Record::Entry {
                group,
                term: entry.term,
                index: entry.index,
                entry_type: entry.entry_type,
                context: entry.context,
                data: entry.data,
            })?;
        }
        Ok(())
    }

    fn push(&mut self, record: Record) -> Result<(), StartError> {
        loop {
            let bytes = self.flush.len_bytes_with(record.encoded_bytes());
            let fits_file = self.position + bytes as u64 <= WAL_FILE_BYTES;
            if fits_file && (bytes <= WAL_FLUSH_BYTES_MAX || self.flush.is_empty()) {
                self.flush.push(record);
                return Ok(());
            }
            if self.flush.is_empty() {
                // It fitted the file that it comes from, so it fits one of its own.
                assert!(self.position > 0, "a record fits an empty WAL file");
                self.finish_file()?;
            } else {
                self.write_flush()?;
            }
        }
    }

    fn write_flush(&mut self) -> Result<(), StartError> {
        let next = FlushBuilder::new(self.file_sequence, self.flush.flush_sequence() + 1);
        let flush = std::mem::replace(&mut self.flush, next).finish();
        let path = self.folder.join(file_name(self.file_sequence));
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create_new(&path).map_err(file_error("create", &path))?),
        };
        for part in &flush.parts {
            file.write_all(part).map_err(file_error("write", &path))?;
        }
        self.position += flush.bytes as u64;
        Ok(())
    }

    /// Fills the rest of the file with zeroes, as every WAL file is, and goes on to the next.
    fn finish_file(&mut self) -> Result<(), StartError> {
        if let Some(mut file) = self.file.take() {
            let path = self.folder.join(file_name(self.file_sequence));
            let zeroes = io::Read::take(io::repeat(0), WAL_FILE_BYTES - self.position);
            let written = io::copy(&mut { zeroes }, &mut file).and_then(|_| file.sync_all());
            written.map_err(file_error("write", &path))?;
            self.file_sequence += 1;
            self.position = 0;
            self.flush = FlushBuilder::new(self.file_sequence, self.flush.flush_sequence());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), StartError> {
        if !self.flush.is_empty() {
            self.write_flush()?;
        }
        self.finish_file()?;
        sync_dir(&self.folder)
    }
}

#[cfg(test)]
mod tests;
