//! Work on segments: in order for each group, a bounded number of groups at once.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::Instant;

use shard::{DiskAnswer, DiskError, DiskRequest, DiskToken, Event};
use types::GroupId;

use crate::core::ShardCore;
use crate::driver::Driver;
use crate::groups;
use crate::io_failure::IoFailure;
use crate::metrics::DiskKind;
use crate::notify::Notify;
use crate::segment::{Append, Segments};
use crate::wal::blocking;

/// Groups whose requests are worked on at once.
const GROUPS_AT_ONCE_MAX: usize = 16;

/// The disk requests of a shard. A group is in `queues` while it has requests; it is in `ready` while none of them is
/// being worked on.
pub(crate) struct Disk {
    segments: Segments,
    queues: RefCell<HashMap<GroupId, VecDeque<(DiskToken, DiskRequest)>>>,
    ready: RefCell<VecDeque<GroupId>>,
    groups_at_work: Cell<usize>,
    tasks: Cell<usize>,
    task_ended: Notify,
    is_closing: Cell<bool>,
}

impl Disk {
    pub(crate) fn new(segments: Segments) -> Disk {
        Disk {
            segments,
            queues: RefCell::default(),
            ready: RefCell::default(),
            groups_at_work: Cell::new(0),
            tasks: Cell::new(0),
            task_ended: Notify::default(),
            is_closing: Cell::new(false),
        }
    }

    /// Whether what is being worked on is waited for, and nothing comes after it.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Forgets what has not begun, waits for what has, and closes all files.
    pub(crate) async fn close(&self) {
        self.is_closing.set(true);
        self.queues.borrow_mut().clear();
        self.ready.borrow_mut().clear();
        while self.tasks.get() > 0 {
            self.task_ended.notified().await;
        }
        self.segments.close(|_| true).await;
    }

    /// Takes the next request to work on, of the group that has waited longest.
    fn begin(&self) -> Option<(GroupId, DiskToken, DiskRequest)> {
        if self.groups_at_work.get() == GROUPS_AT_ONCE_MAX {
            return None;
        }
        let group = self.ready.borrow_mut().pop_front()?;
        let mut queues = self.queues.borrow_mut();
        let (token, request) = queues.get_mut(&group)?.pop_front()?;
        self.groups_at_work.set(self.groups_at_work.get() + 1);
        Some((group, token, request))
    }

    fn end(&self, group: GroupId) {
        self.groups_at_work.set(self.groups_at_work.get() - 1);
        let mut queues = self.queues.borrow_mut();
        match queues.get(&group) {
            Some(queue) if queue.is_empty() => {
                queues.remove(&group);
            }
            Some(_) => self.ready.borrow_mut().push_back(group),
            None => {}
        }
    }

    async fn carry_out(&self, request: DiskRequest) -> Result<DiskAnswer, IoFailure> {
        match request {
            DiskRequest::CreateGroup { group, description, segments } => {
                let groups = self.segments.groups().to_owned();
                let created =
                    blocking(move || groups::create_group(&groups, group, &description, &segments)).await;
                self.done(created, "create", group)
            }
            DiskRequest::RemoveGroup { group } => {
                self.segments.close(|(of_group, _)| *of_group == group).await;
                let groups = self.segments.groups().to_owned();
                let removed = blocking(move || groups::remove_group(&groups, group)).await;
                self.done(removed, "remove", group)
            }
            DiskRequest::AppendSegment { group, segment, position, data, offsets, times, in_a_hurry } => {
                let append = Append { position, data, offsets, times, in_a_hurry };
                self.segments.append(group, segment, append).await.map(|()| DiskAnswer::Done)
            }
            DiskRequest::RemoveSegments { group, segments } => {
                self.segments
                    .close(|(of_group, segment)| *of_group == group && segments.contains(segment))
                    .await;
                let folder = self.segments.group_folder(group);
                let removed = blocking(move || groups::remove_segments(&folder, &segments)).await;
                self.done(removed, "remove segments in", group)
            }
            DiskRequest::ReadSegment { group, segment, position, length } => {
                self.segments.read(group, segment, position, length).await.map(DiskAnswer::Bytes)
            }
            DiskRequest::ReadIndexes { group, segment } => {
                let folder = self.segments.group_folder(group);
                let read = blocking(move || groups::read_indexes(&folder, segment)).await;
                let read =
                    read.map_err(|error| error.at("read indexes in", &self.segments.group_folder(group)));
                read.map(|(offsets, times)| DiskAnswer::Indexes { offsets, times })
            }
            DiskRequest::MeasureSpace => {
                let groups = self.segments.groups().to_owned();
                let measured = blocking(move || groups::space(&groups)).await;
                let measured =
                    measured.map_err(|error| error.at("measure the space of", self.segments.groups()));
                measured.map(|(total_bytes, usable_bytes)| DiskAnswer::Space { total_bytes, usable_bytes })
            }
        }
    }

    fn done(
        &self,
        result: Result<(), IoFailure>,
        operation: &str,
        group: GroupId,
    ) -> Result<DiskAnswer, IoFailure> {
        let named = result.map_err(|error| error.at(operation, &self.segments.group_folder(group)));
        named.map(|()| DiskAnswer::Done)
    }
}

fn group_of(request: &DiskRequest) -> GroupId {
    match request {
        DiskRequest::CreateGroup { group, .. }
        | DiskRequest::RemoveGroup { group }
        | DiskRequest::AppendSegment { group, .. }
        | DiskRequest::RemoveSegments { group, .. }
        | DiskRequest::ReadSegment { group, .. }
        | DiskRequest::ReadIndexes { group, .. } => *group,
        DiskRequest::MeasureSpace => GroupId::METADATA,
    }
}

fn kind_of(request: &DiskRequest) -> DiskKind {
    match request {
        DiskRequest::CreateGroup { .. } => DiskKind::CreateGroup,
        DiskRequest::RemoveGroup { .. } => DiskKind::RemoveGroup,
        DiskRequest::AppendSegment { .. } => DiskKind::Append,
        DiskRequest::RemoveSegments { .. } => DiskKind::RemoveSegments,
        DiskRequest::ReadSegment { .. } => DiskKind::Read,
        DiskRequest::ReadIndexes { .. } => DiskKind::ReadIndexes,
        DiskRequest::MeasureSpace => DiskKind::MeasureSpace,
    }
}

impl<C: ShardCore> Driver<C> {
    pub(crate) fn submit_disk(self: &Rc<Self>, token: DiskToken, request: DiskRequest) {
        let group = group_of(&request);
        self.metrics.disk_queued.increment(1.0);
        let mut queues = self.disk.queues.borrow_mut();
        let is_first = !queues.contains_key(&group);
        queues.entry(group).or_default().push_back((token, request));
        drop(queues);
        if is_first {
            self.disk.ready.borrow_mut().push_back(group);
            self.begin_disk();
        }
    }

    fn begin_disk(self: &Rc<Self>) {
        while let Some((group, token, request)) = self.disk.begin() {
            self.metrics.disk_queued.decrement(1.0);
            let driver = Rc::clone(self);
            self.spawn_disk(kind_of(&request), async move {
                let answer = driver.disk.carry_out(request).await;
                let is_done = answer.is_ok();
                driver.disk.end(group);
                driver.begin_disk();
                driver.feed(Event::Disk { token, result: answer.map_err(DiskError::from) });
                is_done
            });
        }
    }

    /// Runs disk work in its own task queue. `work` says whether it succeeded.
    pub(crate) fn spawn_disk(self: &Rc<Self>, kind: DiskKind, work: impl Future<Output = bool> + 'static) {
        let driver = Rc::clone(self);
        self.disk.tasks.set(self.disk.tasks.get() + 1);
        let measured = async move {
            let begun = Instant::now();
            let is_done = work.await;
            let metrics = driver.metrics.disk(kind);
            metrics.requests.increment(1);
            metrics.duration.record(begun.elapsed());
            if !is_done {
                metrics.failures.increment(1);
            }
            driver.disk.tasks.set(driver.disk.tasks.get() - 1);
            driver.disk.task_ended.notify();
        };
        let spawned = glommio::spawn_local_into(measured, self.disk_queue);
        spawned.expect("the disk's task queue lives as long as its executor").detach();
    }
}
