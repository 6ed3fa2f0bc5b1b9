//! A file system of its own for each node, on a loop device: it can be filled and slowed without harm to the machine.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{cleanup, command, error::LoadtestError};

/// Sparse: it takes as much of the machine's disk as is written.
const FILE_SYSTEM_BYTES: u64 = 16 << 30;
const BALLAST: &str = "ballast";
/// Where control groups bound the writes of processes to a device, in version 1 and 2.
const GROUPS_V1: &str = "/sys/fs/cgroup/blkio";
const GROUPS_V2: &str = "/sys/fs/cgroup";

/// How writes to a device are bounded here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Throttle {
    /// Where groups are made.
    parent: PathBuf,
    file: &'static str,
    /// In front of the number.
    word: &'static str,
    unbounded: &'static str,
}

impl Throttle {
    fn find() -> Option<Throttle> {
        let v1 = Path::new(GROUPS_V1);
        if v1.join("blkio.throttle.write_iops_device").exists() {
            let (file, word) = ("blkio.throttle.write_iops_device", "");
            return Some(Throttle { parent: v1.to_owned(), file, word, unbounded: "0" });
        }
        let v2 = Path::new(GROUPS_V2);
        let controllers = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
        let is_there = controllers.split_whitespace().any(|controller| controller == "io");
        let (file, word) = ("io.max", "wiops=");
        is_there.then(|| Throttle { parent: v2.to_owned(), file, word, unbounded: "max" })
    }
}

#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    /// Of its device, as the kernel writes it.
    number: String,
}

/// The file systems of the nodes 1 and following. Dropped, they are unmounted; their images stay.
#[derive(Debug)]
pub struct Disks {
    disks: Vec<Disk>,
}

impl Disks {
    /// Why no file systems can be made here, if so.
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("mounting file systems needs root".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices".to_owned());
        }
        let is_there = command::is_there("mkfs.ext4", "-V");
        (!is_there).then(|| "there is no mkfs.ext4 (e2fsprogs)".to_owned())
    }

    /// Why none can be slowed here, if so.
    pub fn slow_obstacle() -> Option<String> {
        Self::obstacle().or_else(|| match Throttle::find() {
            Some(_) => None,
            None => Some("no control group here bounds writes to a device".to_owned()),
        })
    }

    /// Makes and mounts one for each node, below `folder`.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`], [`LoadtestError::Command`]. What was mounted by then is unmounted with the rest.
    pub fn create(nodes: u8, folder: &Path) -> Result<Disks, LoadtestError> {
        let mut disks = Disks { disks: Vec::new() };
        for node in 1..=nodes {
            disks.disks.push(Disk::create(folder, node)?);
        }
        Ok(disks)
    }

    fn disk(&self, node: i32) -> &Disk {
        let index = usize::try_from(node - 1).expect("nodes are numbered from 1");
        &self.disks[index]
    }

    /// Where a node's data goes.
    pub fn folder(&self, node: i32) -> &Path {
        &self.disk(node).folder
    }

    /// Leaves no space on a node's file system.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`].
    pub fn fill(&self, node: i32) -> Result<(), LoadtestError> {
        let path = self.folder(node).join(BALLAST);
        let failed = |source| LoadtestError::File { path: path.clone(), source };
        let file = fs::File::create(&path).map_err(failed)?;
        // Ever smaller pieces: the file system gives what it has left, or nothing.
        let mut length = 0;
        let mut piece = 1 << 30;
        while piece >= 4096 {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, piece) {
                Ok(()) => length += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`].
    pub fn free(&self, node: i32) -> Result<(), LoadtestError> {
        let path = self.folder(node).join(BALLAST);
        fs::remove_file(&path).map_err(|source| LoadtestError::File { path, source })
    }

    /// Lets a process write to its node's file system only so often a second, or as often as it likes.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`].
    pub fn bound_writes(
        &self,
        node: i32,
        process: u32,
        per_second: Option<u32>,
    ) -> Result<(), LoadtestError> {
        let throttle = Throttle::find().expect("only possible steps are chosen");
        let group = throttle.parent.join(format!("chronik-loadtest-{}-{node}", std::process::id()));
        if !group.exists() {
            cleanup::note_group(&group);
            fs::create_dir(&group).map_err(|source| LoadtestError::File { path: group.clone(), source })?;
        }
        let bound = per_second.map_or(throttle.unbounded.to_owned(), |count| count.to_string());
        let number = &self.disk(node).number;
        put(&group.join(throttle.file), &format!("{number} {}{bound}", throttle.word))?;
        put(&group.join("cgroup.procs"), &process.to_string())
    }
}

/// Control files want their line in one write.
fn put(path: &Path, line: &str) -> Result<(), LoadtestError> {
    let written =
        || -> io::Result<()> { fs::OpenOptions::new().write(true).open(path)?.write_all(line.as_bytes()) };
    written().map_err(|source| LoadtestError::File { path: path.to_owned(), source })
}

impl Disk {
    fn create(parent: &Path, node: u8) -> Result<Disk, LoadtestError> {
        let (image, folder) = (parent.join(format!("disk-{node}.ext4")), parent.join(format!("disk-{node}")));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadtestError::File { path, source }
        };
        let file = fs::File::create(&image).map_err(failed(&image))?;
        file.set_len(FILE_SYSTEM_BYTES).map_err(failed(&image))?;
        fs::create_dir(&folder).map_err(failed(&folder))?;
        let words = ["-q", "-F", "-m", "0"].map(OsStr::new);
        command::run("mkfs.ext4", &[&words[..], &[image.as_ref()]].concat())?;
        cleanup::note_mount(&folder);
        command::run("mount", &[OsStr::new("-o"), OsStr::new("loop"), image.as_ref(), folder.as_ref()])?;
        let device = fs::metadata(&folder).map_err(failed(&folder))?.dev();
        Ok(Disk { folder, number: format!("{}:{}", libc::major(device), libc::minor(device)) })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match command::run("umount", &[&self.folder]) {
            Ok(_) => cleanup::forget_mount(&self.folder),
            // It is tried again, without waiting for whoever uses it, when everything else is gone.
            Err(error) => eprintln!("{error}"),
        }
    }
}
