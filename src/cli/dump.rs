//! `dump-log`: WAL and segment files in readable form. It may run beside the broker and changes nothing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use log::segment::{BatchSpan, SegmentFile};
use log::{dump, wal};
use protocol::BatchHeader;
use protocol::batch::{batches, check_crc};
use types::limits::WAL_FILE_BYTES;

use super::output;
use crate::exit::Error;
use crate::options::DumpOptions;

/// Bytes of a segment that are read at once; more where one batch is larger.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// Folders within folders that are entered.
const DEPTH_MAX: usize = 16;

/// Dumps files, and all that can be dumped in folders. The broker may rename and remove those meanwhile; what is gone by its
/// turn is left out.
///
/// # Errors
///
/// A file that cannot be read or is not of a kind that can be dumped, and, once everything was dumped, segments with what is
/// no intact batch. A closed pipe is an end, no error.
pub fn run(options: &DumpOptions) -> Result<(), Error> {
    let mut out = Output { out: BufWriter::new(io::stdout().lock()), failure: None };
    let mut damaged = Vec::new();
    for path in &options.paths {
        let mut files = Vec::new();
        collect(path, DEPTH_MAX, &mut files)?;
        if files.is_empty() {
            return Err(Error::Command(format!("there is no WAL file and no segment in {}", path.display())));
        }
        for (file, kind) in files {
            match dump_file(&mut out, &file, kind) {
                Ok(true) => {}
                Ok(false) => damaged.push(file),
                Err(error) if is_gone(&error) && file != *path => {}
                Err(error) => return Err(error),
            }
            if let Some(outcome) = out.take_failure() {
                return outcome;
            }
        }
    }
    let flushed = out.out.flush();
    out.failure = flushed.err();
    out.take_failure().unwrap_or(Ok(()))?;
    match damaged.first() {
        None => Ok(()),
        Some(first) => Err(Error::Command(format!(
            "{} segments hold what is no intact batch, the first is {}",
            damaged.len(),
            first.display()
        ))),
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wal { sequence: u64 },
    Segment,
}

fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    if let Some(sequence) = wal::parse_file_name(name) {
        return Some(Kind::Wal { sequence });
    }
    let is_segment = SegmentFile::parse_name(name).is_some_and(|(_, file)| file == SegmentFile::Log);
    is_segment.then_some(Kind::Segment)
}

/// Lists what can be dumped at a path, by name.
fn collect(path: &Path, depth: usize, files: &mut Vec<(PathBuf, Kind)>) -> Result<(), Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed("read"))?.is_dir() {
        let kind = kind_of(path).ok_or_else(|| {
            Error::Command(format!("{} is neither a WAL file (.wal) nor a segment (.log)", path.display()))
        })?;
        files.push((path.to_owned(), kind));
        return Ok(());
    }
    let mut inner = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("list"))? {
        inner.push(entry.map_err(failed("list"))?.path());
    }
    inner.sort();
    for path in inner {
        if path.is_dir() && depth > 0 {
            match collect(&path, depth - 1, files) {
                Err(error) if is_gone(&error) => {}
                outcome => outcome?,
            }
        } else if let Some(kind) = kind_of(&path) {
            files.push((path, kind));
        }
    }
    Ok(())
}

/// Dumps a file. Says whether it is as it should be, which of a WAL only a broker's start can say: what is torn at its end, or
/// stands behind it from a former life of the file, is none of its flushes.
fn dump_file(out: &mut Output<impl Write>, path: &Path, kind: Kind) -> Result<bool, Error> {
    let failed = |source| Error::File { operation: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Where writing fails, `out` remembers it.
    let _ = fmt::Write::write_fmt(out, format_args!("{}\n", path.display()));
    match kind {
        Kind::Wal { sequence } => {
            let mut content = Vec::new();
            file.take(WAL_FILE_BYTES).read_to_end(&mut content).map_err(failed)?;
            let _ = dump::dump_wal(out, sequence, &content);
            Ok(true)
        }
        Kind::Segment => dump_segment(out, file).map_err(failed),
    }
}

/// Dumps a segment piece by piece, each of whole batches. Says whether all of it is intact.
fn dump_segment(out: &mut Output<impl Write>, mut file: impl Read) -> io::Result<bool> {
    let mut is_intact = true;
    let mut pending = Vec::new();
    let mut position = 0;
    let mut wanted = CHUNK_BYTES;
    loop {
        let count = file.by_ref().take(wanted).read_to_end(&mut pending)?;
        let is_end = (count as u64) < wanted;
        let whole = if is_end { pending.len() } else { whole_batches(&pending) };
        let _ = dump::dump_segment(out, position, &pending[..whole]);
        is_intact = is_intact && are_intact(&pending[..whole]);
        position += whole as u64;
        pending.drain(..whole);
        if is_end || out.failure.is_some() {
            return Ok(is_intact);
        }
        wanted = CHUNK_BYTES;
    }
}

/// Whether these are whole batches with the right checksums and nothing else.
fn are_intact(bytes: &[u8]) -> bool {
    batches(bytes).all(|batch| {
        batch.is_ok_and(|(header, place)| {
            BatchSpan::of(&header).is_some() && check_crc(&header, &bytes[place]).is_ok()
        })
    })
}

/// Bytes of the batches that are whole; everything when what follows them is none.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match BatchHeader::parse(&bytes[at..]) {
            Ok(header) if at + header.size_in_bytes() <= bytes.len() => at += header.size_in_bytes(),
            Ok(_) | Err(protocol::BatchError::Truncated { .. }) => return at,
            Err(_) => return bytes.len(),
        }
    }
}

/// Takes text and remembers what went wrong with writing it.
struct Output<W: Write> {
    out: W,
    failure: Option<io::Error>,
}

impl<W: Write> Output<W> {
    /// What to end with; `None` to go on.
    fn take_failure(&mut self) -> Option<Result<(), Error>> {
        let source = self.failure.take()?;
        Some(output::outcome(Err(source)))
    }
}

impl<W: Write> fmt::Write for Output<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_all(text.as_bytes()).map_err(|error| {
            self.failure = Some(error);
            fmt::Error
        })
    }
}

#[cfg(test)]
mod tests {
    use protocol::batch::{BatchBuilder, BatchOptions};
    use types::Offset;

    use super::*;

    #[test]
    fn kinds_follow_from_names() {
        assert_eq!(kind_of(Path::new("x/00000000000000ff.wal")), Some(Kind::Wal { sequence: 255 }));
        assert_eq!(kind_of(Path::new("00000000000000000042.log")), Some(Kind::Segment));
        for other in ["00000000000000000042.index", "meta.properties", "server.log", ".."] {
            assert_eq!(kind_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn segments_longer_than_a_chunk_are_listed_batch_by_batch() {
        let value = vec![b'x'; 1_500_000];
        let mut bytes = Vec::new();
        let mut positions = Vec::new();
        for base in 0..7 {
            positions.push(format!(" position: {} ", bytes.len()));
            let options = BatchOptions { base_offset: Offset(base), ..BatchOptions::default() };
            let mut batch = BatchBuilder::new(options);
            batch.append(0, None, Some(&value), &[]);
            bytes.extend_from_slice(&batch.build());
        }
        bytes.extend_from_slice(&[0; 30]);
        let mut out = Output { out: Vec::new(), failure: None };
        let is_intact = dump_segment(&mut out, bytes.as_slice()).expect("memory does not fail");
        assert!(!is_intact, "there is something behind the last batch");
        let text = String::from_utf8(out.out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8);
        for (line, position) in lines.iter().zip(&positions) {
            assert!(line.contains(position.as_str()) && line.ends_with("isValid: true"), "{line}");
        }
        assert!(lines[7].contains("no batch"), "{}", lines[7]);
    }

    #[test]
    fn damage_is_noticed() {
        let options = BatchOptions { base_offset: Offset(5), ..BatchOptions::default() };
        let mut batch = BatchBuilder::new(options);
        batch.append(0, None, Some(b"value"), &[]);
        let intact = batch.build().to_vec();
        let dump = |bytes: &[u8]| {
            let mut out = Output { out: Vec::new(), failure: None };
            let is_intact = dump_segment(&mut out, bytes).expect("memory does not fail");
            (is_intact, String::from_utf8(out.out).expect("text"))
        };
        assert!(dump(&[]).0 && dump(&intact).0);
        let mut flipped = intact.clone();
        *flipped.last_mut().expect("a batch has bytes") ^= 1;
        for (damaged, what) in [
            (flipped, "isValid: false"),
            (intact[..intact.len() - 1].to_vec(), "cut off"),
            ([intact.as_slice(), &[0; 8]].concat(), "no batch"),
        ] {
            let (is_intact, text) = dump(&damaged);
            assert!(!is_intact && text.contains(what), "{what}: {text}");
        }
    }

    #[test]
    fn a_closed_pipe_is_an_end() {
        let mut out = Output { out: Vec::new(), failure: Some(io::ErrorKind::BrokenPipe.into()) };
        assert!(matches!(out.take_failure(), Some(Ok(()))));
        out.failure = Some(io::ErrorKind::StorageFull.into());
        assert!(matches!(out.take_failure(), Some(Err(_))));
        assert!(out.take_failure().is_none());
    }
}
