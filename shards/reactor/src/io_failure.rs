//! Errors of file operations, whichever way they were made.

use std::io;
use std::path::Path;

use glommio::GlommioError;
use shard::DiskError;

/// A failed file operation.
#[derive(Debug)]
pub(crate) struct IoFailure {
    os_code: Option<i32>,
    text: String,
}

impl IoFailure {
    /// A failure that the system did not report.
    pub(crate) fn new(text: impl Into<String>) -> IoFailure {
        IoFailure { os_code: None, text: text.into() }
    }

    /// Whether the file system is full, or the user's share of it.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self.os_code, Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// Names the operation and the file.
    pub(crate) fn at(self, operation: &str, path: &Path) -> IoFailure {
        let text = format!("{operation} {}: {}", path.display(), self.text);
        IoFailure { os_code: self.os_code, text }
    }
}

impl std::fmt::Display for IoFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<io::Error> for IoFailure {
    fn from(error: io::Error) -> IoFailure {
        IoFailure { os_code: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<GlommioError<()>> for IoFailure {
    fn from(error: GlommioError<()>) -> IoFailure {
        // Only the system's words: `IoFailure::at` adds file and operation.
        let os_code = error.raw_os_error();
        let text = os_code.map(|code| io::Error::from_raw_os_error(code).to_string());
        IoFailure { os_code, text: text.unwrap_or_else(|| error.to_string()) }
    }
}

impl From<IoFailure> for DiskError {
    fn from(failure: IoFailure) -> DiskError {
        if failure.is_no_space() { DiskError::NoSpace } else { DiskError::Failed(failure.text) }
    }
}
