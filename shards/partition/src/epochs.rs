//! Leader epochs and the offsets at which they began (KIP-101, KIP-320).

use types::Offset;

/// The epochs of a partition, oldest first; both epochs and offsets grow strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    starts: Vec<(i32, Offset)>,
}

impl LeaderEpochs {
    /// Restores what [`LeaderEpochs::starts`] gave.
    pub fn restore(starts: Vec<(i32, Offset)>) -> LeaderEpochs {
        assert!(starts.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "epochs and offsets grow");
        LeaderEpochs { starts }
    }

    /// The epochs with their first offsets.
    pub fn starts(&self) -> &[(i32, Offset)] {
        &self.starts
    }

    /// A leader of `epoch` took over at `start`. An older epoch without a record of its own is forgotten.
    pub fn begin(&mut self, epoch: i32, start: Offset) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        while self.starts.last().is_some_and(|(_, earlier)| *earlier >= start) {
            self.starts.pop();
        }
        self.starts.push((epoch, start));
    }

    /// The newest epoch.
    pub fn latest(&self) -> Option<i32> {
        self.starts.last().map(|(epoch, _)| *epoch)
    }

    /// Where records of `epoch` end: the answer of OffsetForLeaderEpoch as (epoch, end offset), the largest
    /// known epoch that is not above the one asked for; `None` for an epoch that is not known here.
    pub fn end_of(&self, epoch: i32, log_end: Offset) -> Option<(i32, Offset)> {
        let latest = self.latest()?;
        if epoch == latest {
            return Some((epoch, log_end));
        }
        let above = self.starts.partition_point(|(known, _)| *known <= epoch);
        let (_, end) = *self.starts.get(above)?;
        match above.checked_sub(1) {
            Some(below) => Some((self.starts[below].0, end)),
            None => Some((epoch, end)),
        }
    }

    /// The epoch that the record at `offset` was written in.
    pub fn epoch_at(&self, offset: Offset) -> Option<i32> {
        let above = self.starts.partition_point(|(_, start)| *start <= offset);
        above.checked_sub(1).map(|index| self.starts[index].0)
    }

    /// The log starts at `offset` now: epochs that ended before it are forgotten.
    pub fn truncate_front(&mut self, offset: Offset) {
        let above = self.starts.partition_point(|(_, start)| *start <= offset);
        if above > 1 {
            self.starts.drain(..above - 1);
        }
        if let Some(first) = self.starts.first_mut() {
            first.1 = first.1.max(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_an_epoch() {
        let mut epochs = LeaderEpochs::default();
        assert_eq!(epochs.end_of(0, Offset(0)), None);
        epochs.begin(2, Offset(0));
        epochs.begin(4, Offset(10));
        epochs.begin(5, Offset(10));
        epochs.begin(8, Offset(30));
        assert_eq!(epochs.starts(), [(2, Offset(0)), (5, Offset(10)), (8, Offset(30))]);
        let cases = [
            (1, Some((1, Offset(0)))),
            (2, Some((2, Offset(10)))),
            (4, Some((2, Offset(10)))),
            (5, Some((5, Offset(30)))),
            (7, Some((5, Offset(30)))),
            (8, Some((8, Offset(44)))),
            (9, None),
        ];
        for (epoch, expected) in cases {
            assert_eq!(epochs.end_of(epoch, Offset(44)), expected, "epoch {epoch}");
        }
    }

    #[test]
    fn deletion_from_the_front_keeps_the_epoch_of_what_is_left() {
        let mut epochs = LeaderEpochs::restore(vec![(1, Offset(0)), (2, Offset(10)), (3, Offset(20))]);
        epochs.truncate_front(Offset(15));
        assert_eq!(epochs.starts(), [(2, Offset(15)), (3, Offset(20))]);
        assert_eq!(epochs.epoch_at(Offset(15)), Some(2));
        epochs.truncate_front(Offset(50));
        assert_eq!(epochs.starts(), [(3, Offset(50))]);
    }
}
