//! The folders of the WALs: `wal/shard-<k>/<sequence>.wal`, and reading one of them at the start.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::wal::{self, Recovered, Recovery, WalFileContent};
use memmap2::{Advice, MmapMut};
use types::limits::WAL_FILE_BYTES;

use crate::error::{StartError, file_error};

/// The ending of a WAL file that is still being made. It holds nothing yet.
pub(crate) const UNFINISHED: &str = "new";

/// The folder of all WALs.
pub(crate) fn wal_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("wal")
}

/// The folder of one shard's WAL within `wal`.
pub(crate) fn shard_folder(wal: &Path, shard: u16) -> PathBuf {
    wal.join(format!("shard-{shard}"))
}

/// Reads and recovers the WAL in `folder`, after removing files that were never finished.
pub(crate) fn recover_wal(folder: &Path, shard: u16) -> Result<Recovered, StartError> {
    let recovery_error = |source| StartError::Recovery { shard, path: folder.to_owned(), source };
    let mut recovery = Recovery::default();
    let mut buffer = None;
    for (sequence, path) in wal_files(folder)? {
        let content = match &mut buffer {
            Some(buffer) => buffer,
            None => buffer.insert(file_buffer().map_err(file_error("allocate memory for", &path))?),
        };
        read_directly(&path, content).map_err(file_error("read", &path))?;
        let file = WalFileContent { sequence, name: path.display().to_string(), content };
        recovery.read(&file).map_err(recovery_error)?;
    }
    recovery.finish().map_err(recovery_error)
}

/// The finished files, in the order of their numbers.
fn wal_files(folder: &Path) -> Result<BTreeMap<u64, PathBuf>, StartError> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(file_error("list", folder))? {
        let path = entry.map_err(file_error("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            fs::remove_file(&path).map_err(file_error("remove", &path))?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(sequence) = wal::parse_file_name(&name) else {
            let why = format!("{name} is not a WAL file");
            return Err(StartError::Layout { path: folder.to_owned(), why });
        };
        let bytes = fs::metadata(&path).map_err(file_error("look at", &path))?.len();
        // It had its full length before it had its name, so something behind its end was lost since.
        if bytes != WAL_FILE_BYTES {
            let why = format!("it ends at byte {bytes}, and WAL files at {WAL_FILE_BYTES}");
            return Err(StartError::Layout { path, why });
        }
        files.insert(sequence, path);
    }
    Ok(files)
}

/// Memory for a file, of large pages where the system has them. All files are read into the same: most of the time that a
/// start takes would else go to the first use of memory.
fn file_buffer() -> io::Result<MmapMut> {
    let buffer = MmapMut::map_anon(WAL_FILE_BYTES as usize)?;
    if let Err(error) = buffer.advise(Advice::HugePage) {
        tracing::debug!("WAL files are read into small pages: {error}");
    }
    Ok(buffer)
}

/// Reads a file past the page cache: the direct writes that follow would have to throw the cached pages out one flush at a
/// time.
fn read_directly(path: &Path, content: &mut [u8]) -> io::Result<()> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?.read_exact(content)
}
