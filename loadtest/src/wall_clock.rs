//! The nodes' clocks of the day: each can be set by itself, while the machine's stays.
//!
//! A small library stands before the C library's `clock_gettime` in each broker and adds what a shared file says. The
//! file is written in place, so that the broker's clock jumps while it runs.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{command, error::LoadtestError};

const SOURCE: &str = include_str!("wall_clock.c");
/// Where the library looks for its file.
pub const VARIABLE: &str = "CHRONIK_LOADTEST_CLOCK";

/// The library, and a file for each node.
#[derive(Clone, Debug)]
pub struct WallClocks {
    folder: PathBuf,
}

impl WallClocks {
    /// Why clocks cannot be set here, if so.
    pub fn obstacle() -> Option<String> {
        let is_there = command::is_there("cc", "--version");
        (!is_there)
            .then(|| "there is no C compiler to build the library that sets a broker's clock".to_owned())
    }

    /// Builds the library below `folder`; all clocks are right.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`], [`LoadtestError::Command`].
    pub fn create(folder: &Path, nodes: u8) -> Result<WallClocks, LoadtestError> {
        let clocks = WallClocks { folder: folder.to_owned() };
        let source = folder.join("wall_clock.c");
        fs::write(&source, SOURCE)
            .map_err(|error| LoadtestError::File { path: source.clone(), source: error })?;
        let library = clocks.library();
        let words = ["-shared", "-fPIC", "-O1", "-o"].map(OsStr::new);
        let files = [library.as_ref(), source.as_ref(), OsStr::new("-ldl")];
        command::run("cc", &[&words[..], &files].concat())?;
        for node in 1..=nodes {
            clocks.set(i32::from(node), 0)?;
        }
        Ok(clocks)
    }

    /// What is loaded into brokers.
    pub fn library(&self) -> PathBuf {
        self.folder.join("wall_clock.so")
    }

    /// The file of a node.
    pub fn file(&self, node: i32) -> PathBuf {
        self.folder.join(format!("clock-{node}"))
    }

    /// From now on a node's clock is so far ahead of the machine's.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`].
    pub fn set(&self, node: i32, ahead_ms: i64) -> Result<(), LoadtestError> {
        let path = self.file(node);
        // In place and in one write: the broker has it mapped.
        let written = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.write_all_at(&ahead_ms.to_ne_bytes(), 0));
        written.map_err(|source| LoadtestError::File { path, source })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_sees_the_time_that_is_set() {
        if let Some(why) = WallClocks::obstacle() {
            println!("skip: {why}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let clocks = WallClocks::create(folder.path(), 1).unwrap();
        for ahead_s in [0, 3_600, -7_200] {
            clocks.set(1, ahead_s * 1_000).unwrap();
            let before = machine_s();
            let output = Command::new("date")
                .arg("+%s")
                .env("LD_PRELOAD", clocks.library())
                .env(VARIABLE, clocks.file(1))
                .output()
                .unwrap();
            let seen: i64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            assert!((before..=machine_s()).contains(&(seen - ahead_s)), "{seen} at {before}");
        }
    }

    fn machine_s() -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_secs()).unwrap()
    }
}
