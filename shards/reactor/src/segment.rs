//! Reading and appending to segments, past the page cache.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::{DmaFile, OpenOptions};
use types::limits::{BLOCK_BYTES, SEGMENT_CHUNK_BYTES};
use types::{GroupId, Offset};

use crate::direct::{read_bytes, write_blocks, write_gently};
use crate::gather::Gather;
use crate::groups::{SegmentPaths, append_index, group_folder, sync_folder};
use crate::io_failure::IoFailure;
use crate::wal::blocking;
use crate::wal_progress::WalProgress;

/// Segments of one shard that are held open. The one not used for longest is closed for another.
const OPEN_SEGMENTS_MAX: usize = 256;

/// Appends of up to so many bytes are written gently. Where they are larger, the partition is behind.
const GENTLE_APPEND_BYTES_MAX: usize = 2 * SEGMENT_CHUNK_BYTES;

/// The open segments of a shard.
pub(crate) struct Segments {
    groups: PathBuf,
    wal: WalProgress,
    open: RefCell<HashMap<(GroupId, Offset), OpenSegment>>,
    uses: Cell<u64>,
}

struct OpenSegment {
    file: Rc<DmaFile>,
    last_use: u64,
}

/// What [`Segments::append`] adds to a segment.
pub(crate) struct Append {
    pub(crate) position: u64,
    pub(crate) data: Vec<Bytes>,
    pub(crate) offsets: (u64, Bytes),
    pub(crate) times: (u64, Bytes),
    pub(crate) in_a_hurry: bool,
}

impl Segments {
    pub(crate) fn new(groups: PathBuf, wal: WalProgress) -> Segments {
        Segments { groups, wal, open: RefCell::default(), uses: Cell::new(0) }
    }

    /// The folder of all groups.
    pub(crate) fn groups(&self) -> &Path {
        &self.groups
    }

    pub(crate) fn group_folder(&self, group: GroupId) -> PathBuf {
        group_folder(&self.groups, group)
    }

    /// Writes durably from `append.position` on and cuts the file behind. No byte before the position changes, whenever
    /// it fails: the block that the position lies in is written again with what stands in it.
    pub(crate) async fn append(
        &self,
        group: GroupId,
        segment: Offset,
        append: Append,
    ) -> Result<(), IoFailure> {
        let Append { position, mut data, offsets, times, in_a_hurry } = append;
        let (is_new, is_complete) = (position == 0, data.is_empty());
        let paths = SegmentPaths::new(&self.group_folder(group), segment);
        let file = self.opened(group, segment, is_new).await?;
        let end = position + data.iter().map(|part| part.len() as u64).sum::<u64>();
        let kept_bytes = (position % BLOCK_BYTES as u64) as usize;
        let block_at = position - kept_bytes as u64;
        if kept_bytes > 0 {
            let kept = read_bytes(&file, block_at, kept_bytes)
                .await
                .map_err(|error| error.at("read", &paths.log))?;
            if kept.len() < kept_bytes {
                let why =
                    format!("{} ends before {position}, where bytes are to be added", paths.log.display());
                return Err(IoFailure::new(why));
            }
            data.insert(0, Bytes::from(kept));
        }
        let gather = Gather::new(data);
        let written = if in_a_hurry || gather.left() > GENTLE_APPEND_BYTES_MAX {
            write_blocks(&file, block_at, gather).await
        } else {
            write_gently(&file, block_at, gather, &self.wal).await
        };
        let (cut_at, is_written) = if written.is_ok() { (end, true) } else { (position, false) };
        let descriptor = file.as_fd().try_clone_to_owned().map_err(IoFailure::from)?;
        let log_path = paths.log.clone();
        let finished = blocking(move || {
            let log = File::from(descriptor);
            log.set_len(cut_at)?;
            if !is_written {
                return Ok(());
            }
            let append_indexes = || {
                append_index(&paths.offsets, offsets.0, &offsets.1)?;
                append_index(&paths.times, times.0, &times.1)
            };
            match paths.log.parent() {
                // All at once, since a file system's journal goes to the disk for each: what the folder's takes along need
                // not go again. There is no byte before the position that an index could be ahead of.
                Some(folder) if is_new => {
                    append_indexes()?;
                    sync_folder(folder)?;
                    log.sync_data()?;
                }
                _ => {
                    log.sync_data()?;
                    append_indexes()?;
                }
            }
            if is_complete {
                // Nothing will be added that repairs them after a crash.
                File::open(&paths.offsets)?.sync_data()?;
                File::open(&paths.times)?.sync_data()?;
            }
            Ok(())
        });
        let finished = finished.await;
        written.and(finished).map_err(|error| error.at("append to", &log_path))
    }

    /// As many bytes as asked for, or fewer at the end of the file.
    pub(crate) async fn read(
        &self,
        group: GroupId,
        segment: Offset,
        position: u64,
        length: usize,
    ) -> Result<Bytes, IoFailure> {
        let file = self.opened(group, segment, false).await?;
        let read = read_bytes(&file, position, length).await;
        let path = || SegmentPaths::new(&self.group_folder(group), segment).log;
        read.map(Bytes::from).map_err(|error| error.at("read", &path()))
    }

    async fn opened(&self, group: GroupId, segment: Offset, is_new: bool) -> Result<Rc<DmaFile>, IoFailure> {
        let key = (group, segment);
        let last_use = self.uses.replace(self.uses.get() + 1);
        if let Some(open) = self.open.borrow_mut().get_mut(&key) {
            open.last_use = last_use;
            return Ok(Rc::clone(&open.file));
        }
        let path = SegmentPaths::new(&self.group_folder(group), segment).log;
        // Also for reads: a file that is only readable cannot be probed for polling.
        let opened = OpenOptions::new().read(true).write(true).create(is_new).dma_open(&path).await;
        let file = Rc::new(opened.map_err(|error| IoFailure::from(error).at("open", &path))?);
        let replaced = self.open.borrow_mut().insert(key, OpenSegment { file: Rc::clone(&file), last_use });
        assert!(replaced.is_none(), "requests of one group come one after the other");
        self.close_oldest().await;
        Ok(file)
    }

    async fn close_oldest(&self) {
        while self.open.borrow().len() > OPEN_SEGMENTS_MAX {
            let oldest = self.open.borrow().iter().min_by_key(|(_, open)| open.last_use).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.close(|key| *key == oldest).await;
        }
    }

    /// Closes the open segments that `is_meant` names.
    pub(crate) async fn close(&self, is_meant: impl Fn(&(GroupId, Offset)) -> bool) {
        let closed: Vec<_> = self.open.borrow_mut().extract_if(|key, _| is_meant(key)).collect();
        for (_, open) in closed {
            // What matters was flushed; a file that is still in use closes with its last use.
            let _ = open.file.close_rc().await;
        }
    }
}
