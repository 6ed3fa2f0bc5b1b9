//! Segments that are no longer part of the log, until their files are gone.

use types::Offset;

/// Retired segments by their base offsets. Each is handed out for removal once, and all of them stand in checkpoints
/// until their files are gone: a crash in between must not leave files that nobody knows of.
#[derive(Debug, Default)]
pub(crate) struct RetiredSegments {
    /// No checkpoint without them among the live segments is on its way yet.
    waiting: Vec<Offset>,
    /// Such a checkpoint is on its way or durable, or the files are being removed.
    leaving: Vec<Offset>,
}

impl RetiredSegments {
    /// Those of a durable checkpoint, whose files may or may not be there.
    pub(crate) fn restore(segments: Vec<Offset>) -> RetiredSegments {
        RetiredSegments { waiting: segments, leaving: Vec::new() }
    }

    pub(crate) fn add(&mut self, segments: impl IntoIterator<Item = Offset>) {
        self.waiting.extend(segments);
    }

    pub(crate) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands out those that were not handed out before.
    pub(crate) fn take(&mut self) -> Vec<Offset> {
        let taken = std::mem::take(&mut self.waiting);
        self.leaving.extend(&taken);
        taken
    }

    /// The files of these are gone.
    pub(crate) fn on_removed(&mut self, segments: &[Offset]) {
        let before = self.leaving.len();
        self.leaving.retain(|segment| !segments.contains(segment));
        assert!(before - self.leaving.len() == segments.len(), "only what was handed out is removed, once");
    }

    /// All whose files may be there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Offset> {
        self.waiting.iter().chain(&self.leaving).copied()
    }
}
