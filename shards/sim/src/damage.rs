//! Damage to WALs: what must not be recovered as if nothing had happened.

use std::collections::BTreeMap;

use log::wal::{Recovered, flushes};
use types::limits::BLOCK_BYTES;

use crate::disk::WalFile;
use crate::process::try_recover;
use crate::random::Random;

/// A flush of the log: its number, its file, and the bytes that it takes there.
#[derive(Clone, Copy, Debug)]
struct Written {
    number: u64,
    file: u64,
    position: usize,
    bytes: usize,
}

/// Damages a copy of a WAL in some place before its last flush, and checks that recovery refuses it or loses nothing.
///
/// A flush that is damaged at the very end of the log cannot be told from one that a crash tore. Returns what was done.
///
/// # Panics
///
/// When recovery takes the damaged WAL for a whole one, and finds something else in it.
pub(crate) fn check(
    files: &BTreeMap<u64, WalFile>,
    whole: &Recovered,
    random: &mut Random,
) -> Option<&'static str> {
    let written = written(files, whole);
    let (_, but_last) = written.split_last()?;
    if but_last.is_empty() {
        return None;
    }
    let hit = but_last[random.index(but_last.len())];
    let mut damaged = files.clone();
    let content = damaged[&hit.file].content[hit.position..hit.position + hit.bytes].to_vec();
    let mut overwrite = |at: Written, bytes: &[u8]| {
        let file = damaged.get_mut(&at.file).expect("it holds the flush");
        let end = (at.position + bytes.len()).min(file.content.len());
        file.content[at.position..end].copy_from_slice(&bytes[..end - at.position]);
    };
    let what = match random.below(3) {
        0 => {
            let mut rotten = content;
            let at = random.index(rotten.len());
            rotten[at] ^= 1 << random.below(8);
            overwrite(hit, &rotten);
            "WAL bit rot"
        }
        1 => {
            overwrite(hit, &vec![0; hit.bytes]);
            "lost WAL write"
        }
        _ => {
            // The bytes went to another flush's place, and their own has what was there before.
            let other = but_last[random.index(but_last.len())];
            overwrite(hit, &vec![0; hit.bytes]);
            overwrite(other, &content[..content.len().min(other.bytes.max(BLOCK_BYTES))]);
            "misdirected WAL write"
        }
    };
    if let Ok(recovered) = try_recover(&damaged) {
        assert!(
            recovered.groups == whole.groups,
            "{what} at flush {} of {}: recovery does not notice it",
            hit.number,
            written.len()
        );
    }
    Some(what)
}

/// The flushes that recovery has read, in their order.
fn written(files: &BTreeMap<u64, WalFile>, whole: &Recovered) -> Vec<Written> {
    let mut found = Vec::new();
    for file in whole.files.iter().filter(|file| file.used_bytes > 0) {
        let used = usize::try_from(file.used_bytes).expect("a WAL file fits memory");
        for flush in flushes(&files[&file.sequence].content[..used]) {
            let (number, position, bytes) = (flush.flush_sequence, flush.position, flush.bytes);
            found.push(Written { number, file: file.sequence, position, bytes });
        }
    }
    found
}
