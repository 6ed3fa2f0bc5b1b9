//! The folders of the groups and the names of their files: `groups/<group id>/<base offset>.log`, with `.index` and
//! `.timeindex` beside it as Kafka names them. Everything here blocks and runs on the blocking pool.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::MmapOptions;
use nix::sys::statvfs::statvfs;
use types::{GroupId, Offset};

const DESCRIPTION: &str = "partition.metadata";

/// The folder of all groups.
pub(crate) fn groups_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("groups")
}

/// The size of the file system that a folder is on, and what of it this process may still write, in bytes.
pub(crate) fn space(folder: &Path) -> io::Result<(u64, u64)> {
    let measured = statvfs(folder)?;
    let unit = measured.fragment_size();
    Ok((measured.blocks() * unit, measured.blocks_available() * unit))
}

/// The three files of a segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentPaths {
    pub(crate) log: PathBuf,
    pub(crate) offsets: PathBuf,
    pub(crate) times: PathBuf,
}

impl SegmentPaths {
    pub(crate) fn new(group_folder: &Path, segment: Offset) -> SegmentPaths {
        let path = |ending: &str| group_folder.join(format!("{:020}.{ending}", segment.0));
        SegmentPaths { log: path("log"), offsets: path("index"), times: path("timeindex") }
    }
}

/// The folder of one group within `groups`.
pub(crate) fn group_folder(groups: &Path, group: GroupId) -> PathBuf {
    groups.join(group.to_string())
}

pub(crate) fn create_group(
    groups: &Path,
    group: GroupId,
    description: &str,
    segments: &[Offset],
) -> io::Result<()> {
    let folder = group_folder(groups, group);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = folder.join(DESCRIPTION);
    if !path.exists() {
        // By rename, so that a crash leaves the whole file or none.
        let new = folder.join("partition.metadata.new");
        let mut file = File::create(&new)?;
        file.write_all(description.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
    }
    remove_other_segments(&folder, segments)?;
    sync_folder(&folder)?;
    sync_folder(groups)
}

/// Removes the files of segments that are not among `segments`.
fn remove_other_segments(folder: &Path, segments: &[Offset]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if segment_of(&path).is_some_and(|segment| !segments.contains(&segment)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The base offset of the segment that a file belongs to; `None` for what is no segment's file.
fn segment_of(path: &Path) -> Option<Offset> {
    if !["log", "index", "timeindex"].contains(&path.extension()?.to_str()?) {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok().map(Offset)
}

pub(crate) fn remove_group(groups: &Path, group: GroupId) -> io::Result<()> {
    match fs::remove_dir_all(group_folder(groups, group)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(groups),
    }
}

pub(crate) fn remove_segments(group_folder: &Path, segments: &[Offset]) -> io::Result<()> {
    for segment in segments {
        let paths = SegmentPaths::new(group_folder, *segment);
        // The log last: a segment that is there has its indexes, or they are made again from it.
        for path in [paths.offsets, paths.times, paths.log] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    sync_folder(group_folder)
}

/// Puts `entries` at `position` of an index file and cuts it behind them. Not made durable: an index is
/// checked against its segment at the start.
pub(crate) fn append_index(path: &Path, position: u64, entries: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(entries, position)?;
    file.set_len(position + entries.len() as u64)
}

/// The content of both index files of a segment. Those of a sealed segment are mapped, not read.
pub(crate) fn read_indexes(group_folder: &Path, segment: Offset) -> io::Result<(Bytes, Bytes)> {
    let is_sealed = has_later_segment(group_folder, segment)?;
    let paths = SegmentPaths::new(group_folder, segment);
    Ok((read_index(&paths.offsets, is_sealed)?, read_index(&paths.times, is_sealed)?))
}

fn read_index(path: &Path, is_sealed: bool) -> io::Result<Bytes> {
    if !is_sealed {
        return match fs::read(path) {
            Ok(content) => Ok(Bytes::from(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Bytes::new()),
            Err(error) => Err(error),
        };
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bytes::new()),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a mapping is sound while nobody changes or cuts the file. Only this process works in the data directory,
    // by its lock; it appends only to a group's last segment, and this is not the last one; removing a file
    // leaves its mappings as they are.
    let mapped = unsafe { MmapOptions::new().populate().map(&file)? };
    Ok(Bytes::from_owner(mapped))
}

/// Whether the group has gone on to another segment, so that this one never changes again.
fn has_later_segment(group_folder: &Path, segment: Offset) -> io::Result<bool> {
    let own = SegmentPaths::new(group_folder, segment).log;
    let entries = match fs::read_dir(group_folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        // Twenty digits each, so the names are in the order of the numbers.
        if path.extension().is_some_and(|extension| extension == "log") && path.file_name() > own.file_name()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_described_once_and_removed_twice() {
        let groups = tempfile::tempdir().expect("a folder for the test");
        let group = GroupId(12);
        let folder = group_folder(groups.path(), group);
        create_group(groups.path(), group, "first", &[]).expect("created");
        for segment in [3, 5] {
            let paths = SegmentPaths::new(&folder, Offset(segment));
            for path in [paths.log, paths.offsets, paths.times] {
                File::create(path).expect("created");
            }
        }
        create_group(groups.path(), group, "second", &[Offset(5)]).expect("there already");
        assert_eq!(fs::read_dir(&folder).expect("read").count(), 4, "the description and one segment");
        assert!(SegmentPaths::new(&folder, Offset(5)).log.exists());
        assert_eq!(fs::read_to_string(folder.join(DESCRIPTION)).expect("read"), "first");
        remove_group(groups.path(), group).expect("removed");
        assert!(!folder.exists());
        remove_group(groups.path(), group).expect("gone already");
    }

    #[test]
    fn indexes_are_cut_read_and_mapped() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let paths = SegmentPaths::new(folder.path(), Offset(5));
        let missing = read_indexes(folder.path(), Offset(5)).expect("read");
        assert_eq!(missing, (Bytes::new(), Bytes::new()));
        append_index(&paths.offsets, 0, b"abcdefgh").expect("written");
        append_index(&paths.offsets, 4, b"XY").expect("written");
        append_index(&paths.times, 0, b"").expect("written");
        for later in [None, Some(Offset(6))] {
            if let Some(later) = later {
                File::create(SegmentPaths::new(folder.path(), later).log).expect("created");
            }
            let (offsets, times) = read_indexes(folder.path(), Offset(5)).expect("read");
            assert_eq!((&offsets[..], &times[..]), (&b"abcdXY"[..], &b""[..]), "later segment: {later:?}");
        }
        let mapped = read_indexes(folder.path(), Offset(5)).expect("read").0;
        remove_segments(folder.path(), &[Offset(5), Offset(7)]).expect("removed, as far as there");
        assert_eq!(&mapped[..], b"abcdXY", "a mapping outlives its file's name");
        assert!(!paths.offsets.exists() && !paths.times.exists());
    }
}
