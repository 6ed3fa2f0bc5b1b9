//! The data directory: whose it is, that nobody else uses it, and that it can do what is needed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use types::NodeId;
use types::limits::BLOCK_BYTES;

use crate::error::{StartError, file_error};

const META_FILE: &str = "meta.properties";
const META_VERSION: &str = "1";

/// An opened data directory. No other process opens it while this lives; the lock goes with the process, however
/// that ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    node_id: NodeId,
    _lock: File,
}

/// The cluster id that a data directory remembers; `None` when it is new or was never told one.
///
/// # Errors
///
/// [`StartError::MetaProperties`] or [`StartError::File`] when what is there cannot be read.
pub fn stored_cluster_id(data_dir: &Path) -> Result<Option<String>, StartError> {
    Ok(MetaProperties::read(data_dir)?.and_then(|meta| meta.cluster_id))
}

impl DataDir {
    /// Makes the folder where it is missing, locks it, and checks that it is this node's.
    pub(crate) fn open(
        path: &Path,
        node_id: NodeId,
        cluster_id: Option<&str>,
    ) -> Result<DataDir, StartError> {
        fs::create_dir_all(path).map_err(file_error("create", path))?;
        let lock = take_lock(path)?;
        check_direct_io(path)?;
        let data_dir = DataDir { path: path.to_owned(), node_id, _lock: lock };
        match MetaProperties::read(path)? {
            Some(meta) if meta.node_id != node_id => {
                return Err(StartError::OtherNode {
                    path: path.to_owned(),
                    found: meta.node_id,
                    expected: node_id,
                });
            }
            Some(_) => {}
            None => MetaProperties { node_id, cluster_id: None }.write(path)?,
        }
        if let Some(cluster_id) = cluster_id {
            data_dir.store_cluster_id(cluster_id)?;
        }
        Ok(data_dir)
    }

    /// Remembers the cluster's id, durably; refuses when another one is remembered.
    pub(crate) fn store_cluster_id(&self, cluster_id: &str) -> Result<(), StartError> {
        let stored = stored_cluster_id(&self.path)?;
        match stored {
            Some(found) if found == cluster_id => Ok(()),
            Some(found) => Err(StartError::OtherCluster {
                path: self.path.clone(),
                found,
                expected: cluster_id.to_owned(),
            }),
            None => {
                let cluster_id = Some(cluster_id.to_owned());
                MetaProperties { node_id: self.node_id, cluster_id }.write(&self.path)
            }
        }
    }
}

/// Makes a folder's entries durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StartError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(file_error("flush the folder", path))
}

fn take_lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(file_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder may be any program, so its file may hold anything.
            let readable = file.take(32).read_to_string(&mut pid).is_ok();
            let is_pid = readable && pid.trim().parse::<u32>().is_ok();
            let pid = if is_pid { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(StartError::DataDirLocked { path: data_dir.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(file_error("lock", &path)(source)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    match written {
        Err(error) if !is_full(&error) => Err(file_error("write", &path)(error)),
        _ => Ok(file),
    }
}

/// Tries what the WAL does: an aligned write past the page cache.
fn check_direct_io(data_dir: &Path) -> Result<(), StartError> {
    #[repr(align(4096))]
    struct Block([u8; BLOCK_BYTES]);

    let path = data_dir.join("direct-io.probe");
    let no_direct_io = |source| StartError::NoDirectIo { path: data_dir.to_owned(), source };
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // The file may have been made before its flags were refused.
            let _ = fs::remove_file(&path);
            return Err(no_direct_io(error));
        }
        Err(error) if is_full(&error) => return Ok(()),
        Err(error) => return Err(file_error("create", &path)(error)),
    };
    let block = Block([0; BLOCK_BYTES]);
    let written = file.write_all_at(&block.0, 0);
    fs::remove_file(&path).map_err(file_error("remove", &path))?;
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(no_direct_io(error)),
        Err(error) if is_full(&error) => Ok(()),
        Err(error) => Err(file_error("write to", &path)(error)),
    }
}

/// A full disk must not keep the broker from serving what is on it, nor from removing what may go.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The content of `meta.properties`, as Kafka's file of that name has it.
#[derive(Debug, PartialEq, Eq)]
struct MetaProperties {
    node_id: NodeId,
    cluster_id: Option<String>,
}

impl MetaProperties {
    fn read(data_dir: &Path) -> Result<Option<MetaProperties>, StartError> {
        let path = data_dir.join(META_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let meta = MetaProperties::parse(&text);
                meta.map(Some).map_err(|why| StartError::MetaProperties { path, why })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error("read", path)(error)),
        }
    }

    fn parse(text: &str) -> Result<MetaProperties, String> {
        let (mut version, mut node_id, mut cluster_id) = (None, None, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("{line:?} has no '='"))?;
            match key.trim() {
                "version" => version = Some(value.trim()),
                "node.id" => node_id = Some(value.trim()),
                "cluster.id" => cluster_id = Some(value.trim().to_owned()),
                // Later versions may add lines.
                _ => {}
            }
        }
        if version != Some(META_VERSION) {
            return Err(format!("its version is {}, not {META_VERSION}", version.unwrap_or("missing")));
        }
        let node_id = node_id.ok_or("node.id is missing")?;
        match node_id.parse::<i32>() {
            Ok(number) if number >= 0 => Ok(MetaProperties { node_id: NodeId(number), cluster_id }),
            _ => Err(format!("node.id {node_id:?} is not a node id")),
        }
    }

    /// Replaces the file so that a crash leaves the old content or the new.
    fn write(&self, data_dir: &Path) -> Result<(), StartError> {
        let mut text = format!("version={META_VERSION}\nnode.id={}\n", self.node_id);
        if let Some(cluster_id) = &self.cluster_id {
            text.push_str(&format!("cluster.id={cluster_id}\n"));
        }
        let new = data_dir.join("meta.properties.new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(file_error("write", &new))?;
        let path = data_dir.join(META_FILE);
        fs::rename(&new, &path).map_err(file_error("replace", &path))?;
        sync_dir(data_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_properties_are_read_as_written() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        assert_eq!(MetaProperties::read(dir.path()).expect("absent is fine"), None);
        for cluster_id in [None, Some("MkU3OEVBNTcwNTJENDM2Qk".to_owned())] {
            let meta = MetaProperties { node_id: NodeId(7), cluster_id };
            meta.write(dir.path()).expect("written");
            assert_eq!(MetaProperties::read(dir.path()).expect("read"), Some(meta));
        }
    }

    #[test]
    fn broken_meta_properties_are_named() {
        for (text, why) in [
            ("", "its version is missing, not 1"),
            ("version=2\nnode.id=1\n", "its version is 2, not 1"),
            ("version=1\n", "node.id is missing"),
            ("version=1\nnode.id=-4\n", "node.id \"-4\" is not a node id"),
            ("version=1\nrubbish\n", "\"rubbish\" has no '='"),
        ] {
            assert_eq!(MetaProperties::parse(text), Err(why.to_owned()), "{text:?}");
        }
        let known = MetaProperties { node_id: NodeId(3), cluster_id: None };
        assert_eq!(MetaProperties::parse("# x\n\nnode.id = 3\nversion=1\nnew=1\n"), Ok(known));
    }

    #[test]
    fn one_process_one_node_one_cluster() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let held = DataDir::open(dir.path(), NodeId(1), None).expect("new");
        match DataDir::open(dir.path(), NodeId(1), None) {
            Err(StartError::DataDirLocked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("opened twice: {other:?}"),
        }
        held.store_cluster_id("a").expect("first");
        held.store_cluster_id("a").expect("the same again");
        assert!(matches!(held.store_cluster_id("b"), Err(StartError::OtherCluster { .. })));
        drop(held);
        assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("a".to_owned()));
        assert!(matches!(DataDir::open(dir.path(), NodeId(2), None), Err(StartError::OtherNode { .. })));
        assert!(matches!(
            DataDir::open(dir.path(), NodeId(1), Some("b")),
            Err(StartError::OtherCluster { .. })
        ));
        DataDir::open(dir.path(), NodeId(1), Some("a")).expect("its own");
    }
}
