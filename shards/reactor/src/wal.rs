//! The WAL files of one shard.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::io::{DmaFile, OpenOptions};
use log::wal::{Flush, file_name};
use shard::Event;
use types::limits::{BLOCK_BYTES, DISK_REQUEST_BYTES_MAX, WAL_FILE_BYTES, WAL_FLUSH_BYTES_MAX};

use crate::core::ShardCore;
use crate::direct::{rest_after, write_blocks};
use crate::driver::Driver;
use crate::exit::Fatal;
use crate::gather::Gather;
use crate::io_failure::IoFailure;
use crate::metrics::DiskKind;
use crate::notify::Notify;
use crate::wal_dir::UNFINISHED;
use crate::wal_progress::WalProgress;

/// Zeroes of a new file that are flushed together. A device flushes everything that was written to it, so that a flush of another
/// file waits for this much, not for a whole file.
const ZEROES_FLUSHED_BYTES: usize = DISK_REQUEST_BYTES_MAX / 2;

/// The same where the file is in a hurry.
const ZEROES_FLUSHED_BYTES_IN_A_HURRY: usize = 8 * DISK_REQUEST_BYTES_MAX;

/// How long a file that is in no hurry rests after each of these flushes at most.
const ZEROING_REST_MAX: Duration = Duration::from_millis(20);

/// The WAL of one shard, as its driver sees it: files and at most one write under way.
pub(crate) struct Wal {
    folder: PathBuf,
    /// Files that are open for writing, by sequence number.
    open: RefCell<HashMap<u64, Rc<DmaFile>>>,
    job: RefCell<Option<WriteJob>>,
    submitted: Notify,
    is_writing: Cell<bool>,
    last_write_time: Cell<Duration>,
    progress: WalProgress,
}

struct WriteJob {
    number: u64,
    file: u64,
    position: u64,
    flush: Flush,
}

impl Wal {
    pub(crate) fn new(folder: PathBuf) -> Wal {
        Wal {
            folder,
            open: RefCell::default(),
            job: RefCell::default(),
            submitted: Notify::default(),
            is_writing: Cell::new(false),
            last_write_time: Cell::new(Duration::ZERO),
            progress: WalProgress::new(Instant::now()),
        }
    }

    pub(crate) fn progress(&self) -> WalProgress {
        self.progress.clone()
    }

    /// While a write is under way, how long the one before it took: none counts as no time.
    pub(crate) fn write_time(&self) -> Option<Duration> {
        self.is_writing.get().then(|| self.last_write_time.get())
    }

    /// Takes a write; its task does it.
    pub(crate) fn submit(&self, number: u64, file: u64, position: u64, flush: Flush) {
        assert!(!self.is_writing.replace(true), "one WAL write is under way at a time");
        assert!(position.is_multiple_of(BLOCK_BYTES as u64) && flush.bytes.is_multiple_of(BLOCK_BYTES));
        assert!(position + flush.bytes as u64 <= WAL_FILE_BYTES, "a flush ends within its file");
        assert_eq!(flush.file_sequence, file, "a flush is written to the file that it names");
        self.job.replace(Some(WriteJob { number, file, position, flush }));
        self.submitted.notify();
    }

    fn path(&self, file: u64) -> PathBuf {
        self.folder.join(file_name(file))
    }

    async fn opened(&self, file: u64) -> Result<Rc<DmaFile>, IoFailure> {
        if let Some(opened) = self.open.borrow().get(&file) {
            return Ok(Rc::clone(opened));
        }
        let opened = open_for_flushes(&self.path(file)).await?;
        self.open.borrow_mut().insert(file, Rc::clone(&opened));
        Ok(opened)
    }

    async fn write(&self, file: u64, position: u64, flush: Flush) -> Result<(), IoFailure> {
        let gather = Gather::new(flush.parts);
        assert_eq!(gather.left(), flush.bytes, "a flush's parts add up to its bytes");
        let opened = self.opened(file).await?;
        // O_DSYNC: each request is durable when it completes.
        write_blocks(&opened, position, gather).await
    }

    /// Makes a file of zeroes under another name first, so that recovery never sees a part of one.
    async fn create(&self, file: u64, is_ending: impl Fn() -> bool) -> Result<(), IoFailure> {
        let path = self.path(file);
        let unfinished = path.with_extension(UNFINISHED);
        let zeroed = self.write_zeroes(&unfinished, is_ending).await;
        let (from, to, folder) = (unfinished.clone(), path, self.folder.clone());
        let is_zeroed = zeroed.is_ok();
        let named = blocking(move || {
            if is_zeroed {
                std::fs::rename(&from, &to)?;
                std::fs::File::open(&folder)?.sync_all()
            } else {
                // It may hold the space that was missing.
                std::fs::remove_file(&from)
            }
        })
        .await;
        zeroed?;
        named?;
        self.opened(file).await?;
        Ok(())
    }

    async fn write_zeroes(&self, path: &Path, is_ending: impl Fn() -> bool) -> Result<(), IoFailure> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(true).dma_open(path).await;
        let file = Rc::new(opened.map_err(IoFailure::from)?);
        file.pre_allocate(WAL_FILE_BYTES, false).await?;
        // Written, not only reserved: the first overwrite of a reserved extent would have to commit the file
        // system's journal.
        let zeroes = bytes::Bytes::from(vec![0; ZEROES_FLUSHED_BYTES]);
        let written_before = self.progress.written_bytes();
        let mut zeroed = 0;
        while zeroed < WAL_FILE_BYTES {
            // The first file is waited for, and those that are ready must not be full before this one is.
            let filled = self.progress.written_bytes() - written_before;
            let hurries = written_before == 0 || 2 * filled > zeroed || is_ending();
            let flushed_bytes = if hurries { ZEROES_FLUSHED_BYTES_IN_A_HURRY } else { ZEROES_FLUSHED_BYTES };
            let bytes = (WAL_FILE_BYTES - zeroed).min(flushed_bytes as u64);
            let parts = vec![zeroes.clone(); bytes as usize / ZEROES_FLUSHED_BYTES];
            let begun = Instant::now();
            write_blocks(&file, zeroed, Gather::new(parts)).await?;
            file.fdatasync().await?;
            zeroed += bytes;
            if !hurries {
                rest_after(begun, ZEROING_REST_MAX).await;
            }
        }
        file.close_rc().await?;
        Ok(())
    }

    async fn recycle(&self, from: u64, file: u64) -> Result<(), IoFailure> {
        let (old, new, folder) = (self.path(from), self.path(file), self.folder.clone());
        blocking(move || {
            std::fs::rename(&old, &new)?;
            std::fs::File::open(&folder)?.sync_all()
        })
        .await?;
        // The descriptor follows the file to its new name.
        let mut open = self.open.borrow_mut();
        if let Some(opened) = open.remove(&from) {
            open.insert(file, opened);
        }
        Ok(())
    }

    /// Closes all files.
    pub(crate) async fn close(&self) {
        for (_, file) in self.open.take() {
            // Everything that matters was written through.
            let _ = file.close_rc().await;
        }
    }
}

async fn open_for_flushes(path: &Path) -> Result<Rc<DmaFile>, IoFailure> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).custom_flags(libc::O_DSYNC).dma_open(path).await;
    opened.map(Rc::new).map_err(|error| IoFailure::from(error).at("open", path))
}

/// Runs a system call that io_uring does not have on a thread of the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, IoFailure> {
    Ok(glommio::executor().spawn_blocking(work).await?)
}

impl<C: ShardCore> Driver<C> {
    /// Makes one write after the other durable. A failure ends the shard: what reached the disk is unknown.
    pub(crate) async fn run_wal(self: Rc<Self>) {
        loop {
            self.wal.submitted.notified().await;
            let Some(WriteJob { number, file, position, flush }) = self.wal.job.take() else { continue };
            let (bytes, records) = (flush.bytes, flush.notes.len());
            let begun = Instant::now();
            if let Err(failure) = self.wal.write(file, position, flush).await {
                let operation = format!("write {bytes} bytes at {position} of");
                let why = failure.at(&operation, &self.wal.path(file)).to_string();
                return self.die(Fatal::WalWriteFailed { shard: self.shard, why });
            }
            self.metrics.wal_flushes.increment(1);
            self.metrics.wal_bytes.increment(bytes as u64);
            self.wal.progress.on_written(Instant::now(), bytes as u64);
            let taken = begun.elapsed();
            self.wal.last_write_time.set(taken);
            self.metrics.wal_flush_duration.record(taken);
            self.metrics.wal_flush_records.record(records as f64);
            self.wal.is_writing.set(false);
            self.feed(Event::WalFlushed { flush: number });
        }
    }

    pub(crate) fn create_wal_file(self: &Rc<Self>, file: u64) {
        let driver = Rc::clone(self);
        self.spawn_disk(DiskKind::CreateWalFile, async move {
            let created = driver.wal.create(file, || driver.disk.is_closing()).await;
            let is_done = created.is_ok();
            let result = created.map_err(|failure| failure.at("create", &driver.wal.path(file)).into());
            driver.feed(Event::WalFileReady { file, result });
            is_done
        });
    }

    pub(crate) fn recycle_wal_file(self: &Rc<Self>, from: u64, file: u64) {
        let driver = Rc::clone(self);
        self.spawn_disk(DiskKind::RecycleWalFile, async move {
            let recycled = driver.wal.recycle(from, file).await;
            let is_done = recycled.is_ok();
            let result = recycled.map_err(|failure| failure.at("rename", &driver.wal.path(from)).into());
            driver.feed(Event::WalFileReady { file, result });
            is_done
        });
    }
}

const _: () = assert!(WAL_FLUSH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(WAL_FILE_BYTES.is_multiple_of(ZEROES_FLUSHED_BYTES as u64));
const _: () = assert!(ZEROES_FLUSHED_BYTES_IN_A_HURRY.is_multiple_of(ZEROES_FLUSHED_BYTES));
const _: () = assert!(ZEROES_FLUSHED_BYTES.is_multiple_of(BLOCK_BYTES));
