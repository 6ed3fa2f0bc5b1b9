use super::*;
use crate::segment::{NextBatch, RetentionConfig, RollConfig, RollReason, SegmentInfo, SegmentList};

const KEEP_ALL: RetentionConfig = RetentionConfig { retention_ms: -1, retention_bytes: -1 };

/// Segments of (base, end, bytes, highest timestamp), the last one active.
fn list(segments: &[(i64, i64, u64, i64)]) -> SegmentList {
    let mut list = SegmentList::new();
    for (number, (base, end, bytes, max_timestamp_ms)) in segments.iter().enumerate() {
        list.push(SegmentInfo {
            end: Offset(*end),
            bytes: *bytes,
            max_timestamp_ms: *max_timestamp_ms,
            first_timestamp_ms: Some(*max_timestamp_ms),
            is_sealed: number + 1 < segments.len(),
            ..SegmentInfo::new(Offset(*base), 5_000)
        });
    }
    list
}

fn four() -> SegmentList {
    list(&[(0, 10, 100, 1_000), (10, 20, 200, 2_000), (25, 30, 300, 1_500), (30, 35, 50, 3_000)])
}

#[test]
fn offsets_and_timestamps_lead_to_segments() {
    let list = four();
    for (offset, base) in
        [(0, 0), (9, 0), (10, 10), (19, 10), (20, 25), (24, 25), (29, 25), (30, 30), (34, 30)]
    {
        assert_eq!(list.find(Offset(offset)).map(|segment| segment.base.0), Some(base), "{offset}");
    }
    assert_eq!(list.find(Offset(35)), None);
    for (timestamp_ms, base) in [(0, Some(0)), (1_001, Some(10)), (2_001, Some(30)), (3_001, None)] {
        assert_eq!(list.find_timestamp(timestamp_ms).map(|segment| segment.base.0), base, "{timestamp_ms}");
    }
    assert_eq!((list.len(), list.bytes(), list.is_empty()), (4, 650, false));
    assert_eq!(list.iter().map(|segment| segment.base.0).collect::<Vec<_>>(), [0, 10, 25, 30]);
}

#[test]
fn retention_deletes_whole_segments_oldest_first() {
    let list = four();
    let by_time = |retention_ms| RetentionConfig { retention_ms, ..KEEP_ALL };
    let by_size = |retention_bytes| RetentionConfig { retention_bytes, ..KEEP_ALL };
    let now_ms = 4_000;
    for (config, log_start, expected) in [
        (KEEP_ALL, 0, 0),
        (KEEP_ALL, 17, 17),
        (by_time(3_000), 0, 0),
        (by_time(2_999), 0, 10),
        (by_time(2_000), 0, 10),
        // The third is older than the second and waits for it.
        (by_time(1_999), 0, 30),
        (by_time(1_000), 0, 30),
        (by_time(999), 0, 35),
        (by_size(650), 0, 0),
        (by_size(551), 0, 0),
        (by_size(550), 0, 10),
        (by_size(350), 0, 25),
        (by_size(50), 0, 30),
        (by_size(0), 0, 35),
        // Segments below the log start no longer count.
        (by_size(351), 12, 12),
        (by_size(350), 12, 25),
        // Both: the size takes the first, time the two behind it.
        (RetentionConfig { retention_ms: 1_999, retention_bytes: 550 }, 0, 30),
        (by_time(999), 40, 40),
    ] {
        let plan = list.plan_retention(&config, Offset(log_start), now_ms);
        assert_eq!(plan, Offset(expected), "{config:?} {log_start}");
    }
}

#[test]
fn retention_spares_an_empty_segment_and_clocks_that_jump() {
    let everything = RetentionConfig { retention_ms: 0, retention_bytes: 0 };
    let start = |list: &SegmentList, config: &RetentionConfig, now_ms| {
        list.plan_retention(config, Offset(0), now_ms).0
    };
    assert_eq!(start(&SegmentList::new(), &everything, 9_000), 0);
    let mut list = list(&[(0, 10, 100, 1_000)]);
    assert_eq!(start(&list, &everything, 9_000), 10);
    list.seal_active();
    assert_eq!(start(&list, &everything, 9_000), 10);
    list.push(SegmentInfo::new(Offset(10), 9_000));
    assert_eq!(start(&list, &everything, i64::MAX), 10);
    let by_time = RetentionConfig { retention_ms: 0, ..KEEP_ALL };
    assert_eq!(start(&list, &by_time, i64::MIN), 0);
}

#[test]
fn segments_without_timestamps_age_from_their_last_append() {
    let list = list(&[(0, 10, 100, NO_TIMESTAMP), (10, 20, 100, 9_000)]);
    let by_time = RetentionConfig { retention_ms: 1_000, ..KEEP_ALL };
    assert_eq!(list.plan_retention(&by_time, Offset(0), 6_000), Offset(0));
    assert_eq!(list.plan_retention(&by_time, Offset(0), 6_001), Offset(10));
}

#[test]
fn segments_below_the_log_start_are_taken_out() {
    for (log_start, expected) in [
        (0, &[][..]),
        (9, &[]),
        (10, &[0]),
        (19, &[0]),
        (20, &[0, 10]),
        (29, &[0, 10]),
        (30, &[0, 10, 25]),
        (34, &[0, 10, 25]),
        (35, &[0, 10, 25, 30]),
        (99, &[0, 10, 25, 30]),
    ] {
        let mut list = four();
        let below: Vec<_> =
            list.remove_below(Offset(log_start)).iter().map(|segment| segment.base.0).collect();
        assert_eq!(below, expected, "{log_start}");
        assert_eq!(list.len(), 4 - below.len());
        assert_eq!(list.active().is_some(), below.len() < 4);
    }
    let mut empty = SegmentList::new();
    empty.push(SegmentInfo::new(Offset(10), 0));
    assert_eq!(empty.remove_below(Offset(10)), []);
}

const ROLL: RollConfig = RollConfig { segment_bytes: 1_000, segment_ms: 500, index_bytes: 4_096 };

#[test]
fn a_segment_grows_until_a_limit_is_reached() {
    let mut list = SegmentList::new();
    let index = SegmentIndex::new(Offset(0));
    let next = |bytes, last_offset, max_timestamp_ms| NextBatch {
        bytes,
        last_offset: Offset(last_offset),
        max_timestamp_ms,
    };
    assert_eq!(list.plan_roll(&ROLL, &index, &next(1, 0, 0), 0), Some(RollReason::NoActiveSegment));
    list.push(SegmentInfo::new(Offset(0), 100));
    assert_eq!(
        list.plan_roll(&ROLL, &index, &next(5_000, 0, 0), 10_000),
        None,
        "an empty segment takes anything"
    );
    list.on_batch(&next(400, 4, 1_000), 110);
    for (batch, now_ms, expected) in [
        (next(600, 5, 1_500), 99_999, None),
        (next(601, 5, 1_500), 0, Some(RollReason::Size)),
        (next(1, 5, 1_501), 0, Some(RollReason::Age)),
        (next(1, 5, NO_TIMESTAMP), 99_999, None),
        (next(1, i64::from(i32::MAX), 1_000), 0, None),
        (next(1, i64::from(i32::MAX) + 1, 1_000), 0, Some(RollReason::OffsetRange)),
    ] {
        assert_eq!(list.plan_roll(&ROLL, &index, &batch, now_ms), expected, "{batch:?}");
    }
    list.on_batch(&next(10, 6, 900), 120);
    let active = list.active().expect("it is active");
    let expected = SegmentInfo {
        end: Offset(7),
        bytes: 410,
        max_timestamp_ms: 1_000,
        first_timestamp_ms: Some(1_000),
        modified_ms: 120,
        ..SegmentInfo::new(Offset(0), 100)
    };
    assert_eq!(*active, expected);
    list.seal_active();
    list.seal_active();
    assert_eq!(list.active(), None);
}

#[test]
fn a_segment_without_timestamps_ages_from_its_creation() {
    let mut list = SegmentList::new();
    list.push(SegmentInfo::new(Offset(0), 100));
    let batch = NextBatch { bytes: 1, last_offset: Offset(0), max_timestamp_ms: NO_TIMESTAMP };
    list.on_batch(&batch, 100);
    let index = SegmentIndex::new(Offset(0));
    let batch = NextBatch { last_offset: Offset(1), ..batch };
    assert_eq!(list.plan_roll(&ROLL, &index, &batch, 600), None);
    assert_eq!(list.plan_roll(&ROLL, &index, &batch, 601), Some(RollReason::Age));
}

#[test]
fn a_full_index_ends_a_segment() {
    let batches: Vec<_> = (0..8).map(|base| batch(base, 1, base, 2_499)).collect();
    let segment = Segment::of(0, &batches);
    assert_eq!(segment.index.mark().offset_index_bytes, 3 * 8);
    assert_eq!(segment.index.mark().time_index_bytes, 3 * 12);
    let list = list(&[(0, 8, segment.bytes.len() as u64, 7)]);
    let next = NextBatch { bytes: 1, last_offset: Offset(8), max_timestamp_ms: 8 };
    for (index_bytes, expected) in [
        (24, Some(RollReason::OffsetIndexFull)),
        (32, Some(RollReason::TimeIndexFull)),
        (59, Some(RollReason::TimeIndexFull)),
        (60, None),
    ] {
        let config = RollConfig { segment_bytes: u32::MAX, segment_ms: i64::MAX, index_bytes };
        assert_eq!(list.plan_roll(&config, &segment.index, &next, 0), expected, "{index_bytes}");
    }
}
