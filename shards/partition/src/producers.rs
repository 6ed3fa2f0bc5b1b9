//! Sequence numbers of idempotent producers (KIP-98): what a retry is recognised by.

use std::collections::{HashMap, VecDeque};

use types::limits::{PRODUCER_BATCHES_MAX, PRODUCERS_PER_PARTITION_MAX, REFUSED_PRODUCERS_MAX};
use types::mutants::{Mutant, is_planted};
use types::{Offset, ProducerId};

/// One batch of an idempotent producer, as remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Sequence of the first record.
    pub first_sequence: i32,
    /// Sequence of the last record.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The batch's largest timestamp, as the broker stored it.
    pub timestamp_ms: i64,
}

/// What is remembered of one producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    /// The producer's epoch.
    pub epoch: i16,
    /// Its latest batches in this epoch, oldest first, at most `PRODUCER_BATCHES_MAX`.
    pub batches: VecDeque<ProducerBatch>,
    /// The wall clock when its last batch was taken, for expiry.
    pub last_used_ms: i64,
}

/// Why a batch does not fit its producer's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// A newer instance of the producer has taken over: INVALID_PRODUCER_EPOCH.
    #[error("producer epoch {got} is older than {current}")]
    FencedEpoch {
        /// The batch's epoch.
        got: i16,
        /// The newest one seen.
        current: i16,
    },
    /// A batch before this one is missing: OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error("sequence {got} where {expected} was expected")]
    OutOfOrder {
        /// The batch's first sequence.
        got: i32,
        /// What would have followed.
        expected: i32,
    },
}

/// What a batch is to its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// It continues the sequence, or starts one.
    Next,
    /// It was taken before, at these offsets.
    Duplicate(ProducerBatch),
}

/// The sequence that follows `sequence`: after 2³¹−1 comes 0.
pub fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

impl ProducerState {
    fn check(&self, epoch: i16, first: i32, last: i32) -> Result<SequenceCheck, SequenceError> {
        if epoch < self.epoch {
            return Err(SequenceError::FencedEpoch { got: epoch, current: self.epoch });
        }
        if epoch > self.epoch {
            return match first {
                0 => Ok(SequenceCheck::Next),
                got => Err(SequenceError::OutOfOrder { got, expected: 0 }),
            };
        }
        let same = |b: &&ProducerBatch| b.first_sequence == first && b.last_sequence == last;
        let is_forgotten =
            |b: &&ProducerBatch| is_planted(Mutant::ForgetEarlierBatches) && Some(*b) != self.batches.back();
        if let Some(batch) = self.batches.iter().find(same).filter(|b| !is_forgotten(b)) {
            return Ok(SequenceCheck::Duplicate(*batch));
        }
        let Some(latest) = self.batches.back() else { return Ok(SequenceCheck::Next) };
        let expected = next_sequence(latest.last_sequence);
        if first == expected {
            Ok(SequenceCheck::Next)
        } else {
            Err(SequenceError::OutOfOrder { got: first, expected })
        }
    }

    fn take(&mut self, epoch: i16, batch: ProducerBatch, now_ms: i64) {
        if epoch > self.epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
        if self.batches.len() == PRODUCER_BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
        self.last_used_ms = self.last_used_ms.max(now_ms);
    }
}

/// All producers of a partition: those of committed batches, and over them those of batches that the leader has
/// proposed and that may still be lost.
#[derive(Debug, Default)]
pub struct Producers {
    committed: HashMap<ProducerId, ProducerState>,
    /// Producers with proposed batches, and how many of them are not applied yet.
    proposed: HashMap<ProducerId, (ProducerState, usize)>,
    /// Producers without any state of which batches were refused for the time being, the latest at the end.
    refused: VecDeque<Refused>,
}

/// The first one that was refused of a producer's batches. It will come again.
#[derive(Clone, Copy, Debug)]
struct Refused {
    id: ProducerId,
    epoch: i16,
    first_sequence: i32,
}

impl Refused {
    /// Whether a batch was sent behind this one. Sequences go round, and what is under way at once is far less than half of them.
    fn is_before(&self, first_sequence: i32) -> bool {
        (1..1 << 30).contains(&(first_sequence.wrapping_sub(self.first_sequence) & i32::MAX))
    }
}

impl Producers {
    /// Restores committed producers.
    pub fn restore(committed: HashMap<ProducerId, ProducerState>) -> Producers {
        Producers { committed, ..Producers::default() }
    }

    /// The producers of committed batches.
    pub fn committed(&self) -> &HashMap<ProducerId, ProducerState> {
        &self.committed
    }

    /// What a batch with these sequences would be. An unknown producer may start anywhere, since its state may have expired, but
    /// not behind a batch that was refused.
    pub fn check(
        &self,
        id: ProducerId,
        epoch: i16,
        first: i32,
        last: i32,
    ) -> Result<SequenceCheck, SequenceError> {
        let state = self.proposed.get(&id).map(|(state, _)| state).or_else(|| self.committed.get(&id));
        match state {
            Some(state) => state.check(epoch, first, last),
            None => match self.refused.iter().find(|refused| refused.id == id && refused.epoch == epoch) {
                Some(refused) if refused.is_before(first) => {
                    Err(SequenceError::OutOfOrder { got: first, expected: refused.first_sequence })
                }
                Some(_) | None => Ok(SequenceCheck::Next),
            },
        }
    }

    /// A batch was refused for the time being. Those that the producer has sent behind it must not be taken before it, which a
    /// producer without state cannot be told by its sequence.
    pub fn on_refused(&mut self, id: ProducerId, epoch: i16, first_sequence: i32) {
        let is_known = self.proposed.contains_key(&id) || self.committed.contains_key(&id);
        let is_awaited = |refused: &Refused| {
            let is_first = refused.first_sequence == first_sequence || refused.is_before(first_sequence);
            refused.id == id && (refused.epoch > epoch || refused.epoch == epoch && is_first)
        };
        if is_known || self.refused.iter().any(is_awaited) {
            return;
        }
        self.refused.retain(|refused| refused.id != id);
        if self.refused.len() == REFUSED_PRODUCERS_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(Refused { id, epoch, first_sequence });
    }

    /// A batch was proposed.
    pub fn on_proposed(&mut self, id: ProducerId, epoch: i16, batch: ProducerBatch, now_ms: i64) {
        let committed = &self.committed;
        let (state, unapplied) =
            self.proposed.entry(id).or_insert_with(|| (committed.get(&id).cloned().unwrap_or_default(), 0));
        state.take(epoch, batch, now_ms);
        *unapplied += 1;
    }

    /// A batch was committed, whoever proposed it.
    pub fn on_committed(&mut self, id: ProducerId, epoch: i16, batch: ProducerBatch, now_ms: i64) {
        if is_planted(Mutant::ForgetProducerSequences) && !self.proposed.contains_key(&id) {
            return;
        }
        if !self.committed.contains_key(&id) && self.committed.len() == PRODUCERS_PER_PARTITION_MAX {
            self.forget_longest_idle();
        }
        self.refused.retain(|refused| refused.id != id);
        let state = self.committed.entry(id).or_default();
        state.take(epoch, batch, now_ms);
        if let Some((_, unapplied)) = self.proposed.get_mut(&id) {
            *unapplied -= 1;
            if *unapplied == 0 {
                self.proposed.remove(&id);
            }
        }
    }

    /// This node no longer leads: what was proposed may be lost.
    pub fn forget_proposed(&mut self) {
        self.proposed.clear();
    }

    /// Forgets producers that were last used before `before_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, before_ms: i64) {
        let proposed = &self.proposed;
        self.committed.retain(|id, state| state.last_used_ms >= before_ms || proposed.contains_key(id));
    }

    fn forget_longest_idle(&mut self) {
        let idlest =
            self.committed.iter().min_by_key(|(id, state)| (state.last_used_ms, **id)).map(|(id, _)| *id);
        if let Some(id) = idlest {
            self.committed.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: i32, count: i32, offset: i64) -> ProducerBatch {
        ProducerBatch {
            first_sequence: first,
            last_sequence: last_of(first, count),
            base_offset: Offset(offset),
            last_offset: Offset(offset + i64::from(count) - 1),
            timestamp_ms: 0,
        }
    }

    fn last_of(first: i32, count: i32) -> i32 {
        (1..count).fold(first, |sequence, _| next_sequence(sequence))
    }

    const P: ProducerId = ProducerId(7);

    fn check(
        producers: &Producers,
        epoch: i16,
        first: i32,
        count: i32,
    ) -> Result<SequenceCheck, SequenceError> {
        producers.check(P, epoch, first, last_of(first, count))
    }

    #[test]
    fn a_retry_is_recognised_while_it_is_in_flight_and_after() {
        let mut producers = Producers::default();
        assert_eq!(check(&producers, 0, 0, 10), Ok(SequenceCheck::Next));
        producers.on_proposed(P, 0, batch(0, 10, 100), 1);
        assert_eq!(check(&producers, 0, 0, 10), Ok(SequenceCheck::Duplicate(batch(0, 10, 100))));
        assert_eq!(check(&producers, 0, 10, 5), Ok(SequenceCheck::Next));
        producers.on_committed(P, 0, batch(0, 10, 100), 1);
        assert_eq!(check(&producers, 0, 0, 10), Ok(SequenceCheck::Duplicate(batch(0, 10, 100))));
        assert_eq!(check(&producers, 0, 11, 5), Err(SequenceError::OutOfOrder { got: 11, expected: 10 }));
    }

    #[test]
    fn what_was_proposed_is_forgotten_with_the_leadership() {
        let mut producers = Producers::default();
        producers.on_committed(P, 0, batch(0, 1, 0), 1);
        producers.on_proposed(P, 0, batch(1, 1, 1), 2);
        producers.forget_proposed();
        assert_eq!(check(&producers, 0, 1, 1), Ok(SequenceCheck::Next));
    }

    #[test]
    fn what_was_sent_behind_a_refused_first_batch_is_not_taken_before_it() {
        let mut producers = Producers::default();
        producers.on_refused(P, 0, 0);
        // So is the next one, which changes nothing.
        assert_eq!(check(&producers, 0, 3, 2), Err(SequenceError::OutOfOrder { got: 3, expected: 0 }));
        producers.on_refused(P, 0, 3);
        assert_eq!(check(&producers, 0, 0, 3), Ok(SequenceCheck::Next));
        assert_eq!(check(&producers, 1, 7, 1), Ok(SequenceCheck::Next), "the producer has begun anew");
        producers.on_committed(P, 0, batch(0, 3, 0), 1);
        assert_eq!(check(&producers, 0, 3, 2), Ok(SequenceCheck::Next));
        producers.expire(2);
        assert_eq!(check(&producers, 0, 9, 1), Ok(SequenceCheck::Next), "nothing is awaited any more");
    }

    #[test]
    fn a_batch_that_waits_is_not_taken_for_one_behind_a_refused_one() {
        let mut producers = Producers::default();
        producers.on_refused(P, 0, 2);
        assert_eq!(check(&producers, 0, 0, 2), Ok(SequenceCheck::Next), "it was sent before that one");
        producers.on_refused(P, 0, 0);
        assert_eq!(check(&producers, 0, 0, 2), Ok(SequenceCheck::Next));
        assert_eq!(check(&producers, 0, 2, 1), Err(SequenceError::OutOfOrder { got: 2, expected: 0 }));
        producers.on_refused(P, 1, i32::MAX);
        assert_eq!(check(&producers, 1, 0, 1), Err(SequenceError::OutOfOrder { got: 0, expected: i32::MAX }));
    }

    #[test]
    fn refused_producers_are_bounded() {
        let mut producers = Producers::default();
        for id in 0..=REFUSED_PRODUCERS_MAX as i64 {
            producers.on_refused(ProducerId(id), 0, 5);
        }
        assert_eq!(producers.check(ProducerId(0), 0, 6, 6), Ok(SequenceCheck::Next));
        producers.check(ProducerId(1), 0, 6, 6).expect_err("it is one of the latest");
    }

    #[test]
    fn epochs_fence() {
        let mut producers = Producers::default();
        producers.on_committed(P, 3, batch(0, 1, 0), 1);
        assert_eq!(check(&producers, 2, 1, 1), Err(SequenceError::FencedEpoch { got: 2, current: 3 }));
        assert_eq!(check(&producers, 4, 1, 1), Err(SequenceError::OutOfOrder { got: 1, expected: 0 }));
        assert_eq!(check(&producers, 4, 0, 1), Ok(SequenceCheck::Next));
    }

    #[test]
    fn sequences_wrap_after_the_largest_integer() {
        assert_eq!(next_sequence(i32::MAX), 0);
        let mut producers = Producers::default();
        producers.on_committed(P, 0, batch(i32::MAX - 1, 3, 0), 1);
        assert_eq!(check(&producers, 0, 1, 1), Ok(SequenceCheck::Next));
    }

    #[test]
    fn only_the_last_batches_are_remembered_and_the_idlest_producer_is_forgotten() {
        let mut producers = Producers::default();
        for n in 0..6 {
            producers.on_committed(P, 0, batch(n, 1, i64::from(n)), 1);
        }
        assert_eq!(check(&producers, 0, 0, 1), Err(SequenceError::OutOfOrder { got: 0, expected: 6 }));
        assert!(matches!(check(&producers, 0, 1, 1), Ok(SequenceCheck::Duplicate(_))));
        for id in 0..PRODUCERS_PER_PARTITION_MAX as i64 {
            producers.on_committed(ProducerId(1000 + id), 0, batch(0, 1, id), 2 + id);
        }
        assert_eq!(producers.committed().len(), PRODUCERS_PER_PARTITION_MAX);
        assert!(!producers.committed().contains_key(&P));
    }
}
