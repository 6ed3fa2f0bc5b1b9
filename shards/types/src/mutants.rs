//! Bugs that can be planted, to prove that the simulator finds them.
//!
//! They exist only with the feature `mutants`, which nothing but the simulator asks for: without it [`is_planted`] is
//! `false` as a constant, and no trace of them is left in the code.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All of them.
        pub const MUTANTS: &[Mutant] = &[$(Mutant::$name,)+];
    };
}

mutants! {
    /// A vote is not remembered over a restart (Raft paper, figure 2).
    ForgetVote,
    /// A replica says that entries are durable before they are.
    AckBeforeDurable,
    /// Entries that were replaced leave those behind them in the log.
    TruncateTooLittle,
    /// A leader serves before it knows its whole log.
    ServeBeforeOwnTerm,
    /// `acks=all` is answered when the leader alone has the batch.
    AnswerBeforeCommit,
    /// An answer is given for whatever entry was committed at the index, of whichever term.
    AnswerByIndexAlone,
    /// A leader that is deposed goes on counting the offsets that it gave out.
    KeepOffsetsOfLostBatches,
    /// `min.insync.replicas` is not looked at.
    MinInSyncNotChecked,
    /// A follower counts as in sync however far behind it is.
    LaggingReplicaInSync,
    /// A fetch is told a high watermark that is not committed.
    ServeBeyondHighWatermark,
    /// A follower that lost its leader never looks for another.
    NoElection,
    /// A WAL flush is taken for whole though its checksum is wrong.
    AcceptTornFlush,
    /// Damage in the middle of a WAL is taken for its end.
    DamageTakenForTail,
    /// The WAL forgets a group before its folder is gone.
    RecoverDeletedGroup,
    /// The files of a segment go before a checkpoint without it is durable.
    RemoveSegmentBeforeCheckpoint,
    /// A checkpoint says that batches are in segments which are still on their way.
    CheckpointBeforeSegment,
    /// The index of a segment that a crash cut back keeps what is behind its end.
    IndexNotTruncated,
    /// An offset is looked for from the index entry behind it.
    IndexEntryBehind,
    /// Batches read from a segment are not checked against their checksums.
    ReadsNotChecked,
    /// The start of a log is not in its checkpoints, so that deleted records come back.
    ResurrectDeletedRecords,
    /// Leader epochs are not in checkpoints.
    ForgetEpochs,
    /// A follower does not remember the sequence numbers of producers.
    ForgetProducerSequences,
    /// Sequence numbers of producers are not in checkpoints.
    ProducersNotInCheckpoint,
    /// Only the latest batch of a producer is recognised when it comes again.
    ForgetEarlierBatches,
    /// A commit of offsets is answered before it is written.
    CommitBeforeWritten,
    /// Members of earlier generations may commit offsets.
    StaleMemberCommits,
    /// A coordinator begins without reading what was committed before.
    CoordinatorNotLoaded,
    /// A snapshot for a replica that is far behind lacks the producers.
    SnapshotLacksProducers,
    /// The data of a deleted topic stays.
    KeepDeletedPartition,
}

impl Mutant {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Mutant> {
        MUTANTS.iter().copied().find(|mutant| mutant.name() == name)
    }

    /// Its name.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

#[cfg(feature = "mutants")]
mod planted {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Plants one bug, or none, for all that runs on this thread.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    /// Whether this bug is planted.
    pub fn is_planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub use planted::{is_planted, plant};

/// Whether this bug is planted: without the feature `mutants`, none is.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_planted(_: Mutant) -> bool {
    false
}
