//! What the world says of a disk request in its trace.

use std::fmt;

use bytes::Bytes;
use shard::DiskRequest;
use types::GroupId;

/// The group whose folder a request is about.
pub(crate) fn group_of(request: &DiskRequest) -> GroupId {
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

/// A request on segments, in short.
pub(crate) struct Asked<'a>(pub(crate) &'a DiskRequest);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DiskRequest::CreateGroup { group, .. } => write!(f, "create group {group}"),
            DiskRequest::RemoveGroup { group } => write!(f, "remove group {group}"),
            DiskRequest::AppendSegment { group, segment, position, data, offsets, times, .. } => {
                let bytes: usize = data.iter().map(Bytes::len).sum();
                let (index_at, time_at) = (offsets.0, times.0);
                write!(
                    f,
                    "append {bytes} at {position} of {group}/{segment}, indexes at {index_at} and {time_at}"
                )
            }
            DiskRequest::RemoveSegments { group, segments } => write!(f, "remove {segments:?} of {group}"),
            DiskRequest::ReadSegment { group, segment, position, length } => {
                write!(f, "read {length} at {position} of {group}/{segment}")
            }
            DiskRequest::ReadIndexes { group, segment } => write!(f, "read indexes of {group}/{segment}"),
            DiskRequest::MeasureSpace => write!(f, "measure the space"),
        }
    }
}
