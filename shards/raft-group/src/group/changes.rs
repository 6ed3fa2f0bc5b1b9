//! Changes of a group's members.

use bytes::Bytes;
use raft::eraftpb::Entry;
use types::{LogIndex, ReplicaId};

use super::{Follower, Group};
use crate::membership::{Membership, Step, change_of_entry, entry_of_change, plan_step};

impl Group {
    /// Goes on, on the leader, towards these voters (ascending) and no other members: one step, once the last one is applied.
    /// Returns whether that is reached, so that all others can be gone for good. `context` is that of the entry which a step
    /// may take, and `is_recorded` whether one with it has been applied: there is one in the end, even if nothing had to change, so
    /// that whoever leads next knows of it.
    ///
    /// The members count once the entry that changes them is applied, and what a replica knows to be committed is durable only
    /// along with what it writes next. So one more entry must be committed by the new members: with it a majority of them
    /// has written that the change is. Otherwise replicas that restart could ask for votes that nobody is left to give.
    pub fn change_members(
        &mut self,
        wanted: &[ReplicaId],
        context: Bytes,
        is_recorded: bool,
        is_caught_up: impl Fn(&Follower) -> bool,
    ) -> bool {
        let term = self.role().term;
        if !self.role().serving || self.is_transferring() {
            return false;
        }
        if self.node.raft.has_pending_conf() {
            return false;
        }
        let caught_up: Vec<ReplicaId> =
            self.followers().filter(is_caught_up).map(|follower| follower.replica).collect();
        match plan_step(self.membership(), wanted, self.own, &caught_up) {
            Step::Done if is_recorded && self.applied > self.settled_behind => return true,
            Step::Done if is_recorded && self.last_index() > self.settled_behind => {}
            Step::Done if self.settling.is_some_and(|(of, index)| of == term && index > self.applied) => {}
            Step::Done => {
                // Refused where too much waits for its commit: it is tried again.
                if let Ok(index) = self.propose_entry(Entry { context, ..Entry::default() }) {
                    self.settling = Some((term, index));
                }
            }
            Step::Wait => {}
            Step::HandOver => {
                // Where minds have changed while voters change, nobody who is to vote next may be wanted any more: then one of
                // those brings the change to its end.
                let voters = &self.membership().voters;
                let heirs = self.followers().filter(|follower| voters.contains(&follower.replica));
                let heir = heirs.max_by_key(|heir| {
                    (wanted.contains(&heir.replica), heir.matched, std::cmp::Reverse(heir.replica))
                });
                if let Some(heir) = heir {
                    self.node.transfer_leader(heir.replica.raft_id());
                }
            }
            Step::Change(change) => {
                // Refused where too much waits for its commit: it is tried again.
                let _ = self.propose_entry(entry_of_change(context, &change));
            }
        }
        false
    }

    /// A committed entry changes the members. Comes before [`Group::on_applied`] of it.
    pub fn apply_membership(&mut self, entry: &Entry) {
        let change = change_of_entry(entry);
        // Each leader proposes only what its configuration allows, and all apply the same in the same order.
        let state = self.node.apply_conf_change(&change).expect("a committed change is possible");
        let membership = Membership::of_conf_state(&state);
        self.node.mut_store().set_conf_state(state);
        self.set_membership(LogIndex(entry.index), membership);
    }

    pub(super) fn set_membership(&mut self, index: LogIndex, membership: Membership) {
        self.voters = membership.all_voters();
        self.settled_behind = self.last_index().max(index);
        self.memberships.push_back((index, membership));
    }
}
