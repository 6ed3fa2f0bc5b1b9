//! The data directory: whose it is, that nobody else uses it, and that it can do what is needed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use types::limits::BLOCK_BYTES;
use types::{DirectoryId, NodeId};

use crate::error::{StartError, file_error};
use crate::wal_dir::wal_folder;

const META_FILE: &str = "meta.properties";
const META_VERSION: &str = "1";

/// An opened data directory. No other process opens it while this lives; the lock goes with the process, however
/// that ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    directory_id: DirectoryId,
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

/// The nodes that vote in the metadata group as a data directory remembers them, ascending; `None` when it is new.
///
/// # Errors
///
/// [`StartError::MetaProperties`] or [`StartError::File`] when what is there cannot be read.
pub fn stored_voters(data_dir: &Path) -> Result<Option<Vec<NodeId>>, StartError> {
    Ok(MetaProperties::read(data_dir)?.map(|meta| meta.voters))
}

impl DataDir {
    /// Makes the folder where it is missing, locks it, and checks that it is this node's. `new` is what it remembers from a
    /// first start on; the directory's id stays as it was found.
    pub(crate) fn open(path: &Path, new: MetaProperties) -> Result<DataDir, StartError> {
        fs::create_dir_all(path).map_err(file_error("create", path))?;
        let lock = take_lock(path)?;
        check_direct_io(path)?;
        let new_directory_id = new.directory_id.expect("a new directory gets an id");
        let has_wal = wal_folder(path).exists();
        let lost = |missing| StartError::Incomplete { path: path.to_owned(), missing };
        let directory_id = match MetaProperties::read(path)? {
            Some(meta) if meta.node_id != new.node_id => {
                return Err(StartError::OtherNode {
                    path: path.to_owned(),
                    found: meta.node_id,
                    expected: new.node_id,
                });
            }
            Some(meta) if meta.voters != new.voters => {
                let (stored, given) = (join(&meta.voters), join(&new.voters));
                return Err(StartError::Options(format!(
                    "the voters of the metadata group are {stored} in {}, not {given}",
                    path.display()
                )));
            }
            // What has joined has logged it.
            Some(meta) if meta.cluster_id.is_some() && meta.voters != [meta.node_id] && !has_wal => {
                return Err(lost("wal"));
            }
            Some(MetaProperties { directory_id: Some(directory_id), .. }) => directory_id,
            // From before there were such ids.
            Some(meta) => {
                MetaProperties { directory_id: Some(new_directory_id), ..meta }.write(path)?;
                new_directory_id
            }
            // It was there before the WAL.
            None if has_wal => return Err(lost(META_FILE)),
            None => {
                MetaProperties { cluster_id: None, ..new.clone() }.write(path)?;
                new_directory_id
            }
        };
        let data_dir = DataDir { path: path.to_owned(), directory_id, _lock: lock };
        if let Some(cluster_id) = new.cluster_id {
            data_dir.store_cluster_id(&cluster_id)?;
        }
        Ok(data_dir)
    }

    /// The id that the directory got at its first start.
    pub(crate) fn directory_id(&self) -> DirectoryId {
        self.directory_id
    }

    /// Remembers the cluster's id, durably; refuses when another one is remembered.
    pub(crate) fn store_cluster_id(&self, cluster_id: &str) -> Result<(), StartError> {
        let path = || self.path.join(META_FILE);
        let meta = MetaProperties::read(&self.path)?
            .ok_or_else(|| StartError::MetaProperties { path: path(), why: "it is gone".to_owned() })?;
        match meta.cluster_id {
            Some(found) if found == cluster_id => Ok(()),
            Some(found) => Err(StartError::OtherCluster {
                path: self.path.clone(),
                found,
                expected: cluster_id.to_owned(),
            }),
            None => MetaProperties { cluster_id: Some(cluster_id.to_owned()), ..meta }.write(&self.path),
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaProperties {
    pub(crate) node_id: NodeId,
    /// Ascending.
    pub(crate) voters: Vec<NodeId>,
    /// `None` in a file from before there were such ids.
    pub(crate) directory_id: Option<DirectoryId>,
    pub(crate) cluster_id: Option<String>,
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
        let (mut version, mut node_id, mut voters) = (None, None, None);
        let (mut directory_id, mut cluster_id) = (None, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("{line:?} has no '='"))?;
            match key.trim() {
                "version" => version = Some(value.trim()),
                "node.id" => node_id = Some(value.trim()),
                "metadata.voters" => voters = Some(parse_voters(value)?),
                "directory.id" => directory_id = Some(parse_directory_id(value)?),
                "cluster.id" => cluster_id = Some(value.trim().to_owned()),
                // Later versions may add lines.
                _ => {}
            }
        }
        if version != Some(META_VERSION) {
            return Err(format!("its version is {}, not {META_VERSION}", version.unwrap_or("missing")));
        }
        let node_id = node_id.ok_or("node.id is missing")?;
        let node_id =
            parse_node_id(node_id).ok_or_else(|| format!("node.id {node_id:?} is not a node id"))?;
        // A node that wrote no voters was alone.
        let voters = voters.unwrap_or_else(|| vec![node_id]);
        Ok(MetaProperties { node_id, voters, directory_id, cluster_id })
    }

    /// Replaces the file so that a crash leaves the old content or the new.
    fn write(&self, data_dir: &Path) -> Result<(), StartError> {
        let mut text = format!(
            "version={META_VERSION}\nnode.id={}\nmetadata.voters={}\n",
            self.node_id,
            join(&self.voters)
        );
        if let Some(directory_id) = &self.directory_id {
            text.push_str(&format!("directory.id={directory_id}\n"));
        }
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

fn parse_node_id(text: &str) -> Option<NodeId> {
    text.trim().parse().ok().filter(|number| *number >= 0).map(NodeId)
}

fn parse_directory_id(text: &str) -> Result<DirectoryId, String> {
    text.trim().parse().map_err(|_| format!("directory.id {:?} is not a UUID in base64", text.trim()))
}

fn parse_voters(text: &str) -> Result<Vec<NodeId>, String> {
    if text.trim().is_empty() {
        // A node that has joined a cluster which was there.
        return Ok(Vec::new());
    }
    let voters: Option<Vec<NodeId>> = text.split(',').map(parse_node_id).collect();
    let is_ascending = |voters: &Vec<NodeId>| voters.is_sorted_by(|left, right| left < right);
    voters
        .filter(is_ascending)
        .ok_or_else(|| format!("metadata.voters {:?} are not ascending node ids", text.trim()))
}

fn join(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    nodes.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_dir(
        path: &Path,
        node: i32,
        voters: &[i32],
        cluster_id: Option<&str>,
        new_directory_id: u8,
    ) -> Result<DataDir, StartError> {
        let new = MetaProperties {
            node_id: NodeId(node),
            voters: voters.iter().copied().map(NodeId).collect(),
            directory_id: Some(DirectoryId([new_directory_id; 16])),
            cluster_id: cluster_id.map(str::to_owned),
        };
        DataDir::open(path, new)
    }

    #[test]
    fn meta_properties_are_read_as_written() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        assert_eq!(MetaProperties::read(dir.path()).expect("absent is fine"), None);
        let texts = [None, Some("MkU3OEVBNTcwNTJENDM2Qk".to_owned())];
        for (cluster_id, directory_id) in texts.into_iter().zip([None, Some(DirectoryId([9; 16]))]) {
            let voters = vec![NodeId(2), NodeId(7)];
            let meta = MetaProperties { node_id: NodeId(7), voters, directory_id, cluster_id };
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
            (
                "version=1\nnode.id=1\nmetadata.voters=2,1\n",
                "metadata.voters \"2,1\" are not ascending node ids",
            ),
            ("version=1\nnode.id=1\ndirectory.id=7\n", "directory.id \"7\" is not a UUID in base64"),
            ("version=1\nrubbish\n", "\"rubbish\" has no '='"),
        ] {
            assert_eq!(MetaProperties::parse(text), Err(why.to_owned()), "{text:?}");
        }
        // One from before there were several nodes.
        let known = MetaProperties {
            node_id: NodeId(3),
            voters: vec![NodeId(3)],
            directory_id: None,
            cluster_id: None,
        };
        assert_eq!(MetaProperties::parse("# x\n\nnode.id = 3\nversion=1\nnew=1\n"), Ok(known));
    }

    #[test]
    fn one_process_one_node_one_cluster() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let open = |node: i32, cluster_id| open_dir(dir.path(), node, &[1], cluster_id, 1);
        let held = open(1, None).expect("new");
        match open(1, None) {
            Err(StartError::DataDirLocked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("opened twice: {other:?}"),
        }
        held.store_cluster_id("a").expect("first");
        held.store_cluster_id("a").expect("the same again");
        assert!(matches!(held.store_cluster_id("b"), Err(StartError::OtherCluster { .. })));
        drop(held);
        assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("a".to_owned()));
        assert!(matches!(open(2, None), Err(StartError::OtherNode { .. })));
        assert!(matches!(open(1, Some("b")), Err(StartError::OtherCluster { .. })));
        drop(open(1, Some("a")).expect("its own"));
        assert_eq!(stored_voters(dir.path()).expect("read"), Some(vec![NodeId(1)]));
        let other_voters = open_dir(dir.path(), 1, &[1, 2], None, 1);
        assert!(matches!(other_voters, Err(StartError::Options(_))), "{other_voters:?}");
    }

    #[test]
    fn a_directory_that_lost_a_part_is_refused() {
        let missing = |dir: &Path| match open_dir(dir, 1, &[1, 2, 3], None, 1) {
            Err(StartError::Incomplete { missing, .. }) => missing,
            other => panic!("opened: {other:?}"),
        };
        let dir = tempfile::tempdir().expect("a folder for the test");
        drop(open_dir(dir.path(), 1, &[1, 2, 3], None, 1).expect("new"));
        let held = open_dir(dir.path(), 1, &[1, 2, 3], None, 1).expect("it ended before it made a WAL");
        held.store_cluster_id("a").expect("joined");
        drop(held);
        assert_eq!(missing(dir.path()), "wal");
        fs::create_dir(wal_folder(dir.path())).expect("made");
        drop(open_dir(dir.path(), 1, &[1, 2, 3], None, 1).expect("whole"));
        fs::remove_file(dir.path().join(META_FILE)).expect("removed");
        assert_eq!(missing(dir.path()), META_FILE);
    }

    #[test]
    fn a_directory_keeps_its_id_and_one_from_before_gets_one() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let id = |new: u8| open_dir(dir.path(), 1, &[1], None, new).expect("its own").directory_id();
        assert_eq!(id(1), DirectoryId([1; 16]));
        assert_eq!(id(2), DirectoryId([1; 16]), "it has one");
        std::fs::write(dir.path().join(META_FILE), "version=1\nnode.id=1\ncluster.id=a\n").expect("written");
        assert_eq!(id(3), DirectoryId([3; 16]));
        assert_eq!(id(4), DirectoryId([3; 16]));
        assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("a".to_owned()));
    }
}
