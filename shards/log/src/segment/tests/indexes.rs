use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::segment::{
    OFFSET_ENTRY_BYTES, ReadPlan, ScanEnd, TIME_ENTRY_BYTES, are_sealed_indexes_sane, last_timestamp,
    offset_for_timestamp, plan_timestamp_search, position_for_offset, position_for_timestamp, restore,
};

fn hex(bytes: &[u8], entry_bytes: usize) -> Vec<String> {
    let entries = bytes.chunks(entry_bytes);
    entries.map(|entry| entry.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

#[test]
fn entries_are_laid_out_as_kafka_lays_them_out() {
    // Each batch takes 61 bytes of header and 2,507 of record: an entry is due at every second.
    let batches: Vec<_> = [0x10, 0x30, 0x20, 0x20, 0x40, 0x40, 0x40, 0x41]
        .into_iter()
        .zip(1_000..)
        .map(|(timestamp_ms, base)| batch(base, 1, timestamp_ms, 2_498))
        .collect();
    let mut segment = Segment::of(1_000, &batches);
    assert_eq!(batches[0].len(), 0xa08);
    assert_eq!(
        hex(segment.index.offset_index(), 8),
        ["0000000200001410", "0000000400002820", "0000000600003c30"]
    );
    assert_eq!(hex(segment.index.time_index(), 12), ["000000000000003000000001", "000000000000004000000004"]);
    segment.index.seal();
    segment.index.seal();
    assert_eq!(
        hex(segment.index.time_index(), 12),
        ["000000000000003000000001", "000000000000004000000004", "000000000000004100000007"]
    );
    assert_eq!(last_timestamp(segment.index.time_index()), Some(0x41));
    assert_eq!(segment.index.end_offset(), Offset(1_008));
    assert_eq!(segment.index.end_position() as usize, segment.bytes.len());
}

#[test]
fn look_ups_find_the_last_entry_at_or_before() {
    let index: Vec<u8> = [(10u32, 100u32), (20, 200), (30, 300)]
        .iter()
        .flat_map(|(offset, position)| [offset.to_be_bytes(), position.to_be_bytes()].concat())
        .collect();
    let base = Offset(1_000);
    for (target, expected) in [(0, 0), (1_009, 0), (1_010, 100), (1_019, 100), (1_020, 200), (9_999, 300)] {
        assert_eq!(position_for_offset(&index, base, Offset(target)), expected, "{target}");
    }
    assert_eq!(position_for_offset(&[], base, base), 0);
    assert_eq!(position_for_offset(&index[..index.len() - 1], base, Offset(9_999)), 200);

    let time_index: Vec<u8> = [(5i64, 11u32), (6, 25)]
        .iter()
        .flat_map(|(timestamp, offset)| [&timestamp.to_be_bytes()[..], &offset.to_be_bytes()[..]].concat())
        .collect();
    for (timestamp_ms, offset, position) in [(4, 1_000, 0), (5, 1_011, 100), (6, 1_025, 200), (7, 1_025, 200)]
    {
        assert_eq!(offset_for_timestamp(&time_index, base, timestamp_ms), Offset(offset));
        assert_eq!(position_for_timestamp(&index, &time_index, base, timestamp_ms, base), position);
    }
    assert_eq!(position_for_timestamp(&index, &time_index, base, 4, Offset(1_030)), 300);
}

#[test]
fn what_was_added_since_a_mark_is_handed_out() {
    let batches: Vec<_> = (0..9).map(|base| batch(base, 1, base, 2_499)).collect();
    let whole = Segment::of(0, &batches);
    let part = Segment::of(0, &batches[..6]);
    let (offsets, times) = whole.index.since(part.index.mark());
    assert_eq!([part.index.offset_index(), offsets].concat(), whole.index.offset_index());
    assert_eq!([part.index.time_index(), times].concat(), whole.index.time_index());
    assert!(!offsets.is_empty() && !times.is_empty());
    assert_eq!(whole.index.since(whole.index.mark()), (&[][..], &[][..]));
}

#[test]
fn batches_that_the_segment_cannot_hold_are_damage() {
    let follows = [batch(5, 1, 0, 10), batch(6, 1, 0, 10)].concat();
    let mut index = SegmentIndex::new(Offset(5));
    assert_eq!(index.extend(&follows, 0), ScanEnd::Complete);
    let size = follows.len() / 2;
    for (base, chunk) in [(6, follows.clone()), (0, batch(1 << 31, 1, 0, 10))] {
        assert_eq!(SegmentIndex::new(Offset(base)).extend(&chunk, 0), ScanEnd::Damaged { at: 0 });
    }
    let repeats = [&follows[..size], &follows[..size]].concat();
    assert_eq!(SegmentIndex::new(Offset(0)).extend(&repeats, 0), ScanEnd::Damaged { at: size });
    let mut index = SegmentIndex::new(Offset(0));
    let cut = &follows[..follows.len() - 1];
    assert_eq!(index.extend(cut, 0), ScanEnd::NeedMore { from: size, bytes: size });
    assert_eq!(index.end_position() as usize, size);
    assert_eq!(index.extend(&follows[size..], size as u32), ScanEnd::Complete);
}

/// Batches with gaps between them, as compaction leaves them, and timestamps in any order.
fn batches() -> impl Strategy<Value = (i64, Vec<Vec<u8>>)> {
    let any_batch = (0..3i64, 1..4usize, -1..40i64, prop_oneof![1..50usize, 500..3_000usize]);
    (0..5_000i64, proptest::collection::vec(any_batch, 0..40)).prop_map(|(base, batches)| {
        let mut next = base;
        let build = |(gap, count, timestamp_ms, value_bytes): (i64, usize, i64, usize)| {
            let built = batch(next + gap, count, timestamp_ms, value_bytes);
            next += gap + count as i64;
            built
        };
        (base, batches.into_iter().map(build).collect())
    })
}

/// Rescans the segment in chunks that grow where a batch does not fit.
fn rescan(index: &mut SegmentIndex, bytes: &[u8], mut chunk_bytes: usize) -> ScanEnd {
    loop {
        let position = index.end_position() as usize;
        let end = bytes.len().min(position + chunk_bytes);
        match index.extend(&bytes[position..end], position as u32) {
            ScanEnd::Complete if end < bytes.len() => {}
            ScanEnd::NeedMore { bytes: needed, .. } if end < bytes.len() => {
                chunk_bytes = chunk_bytes.max(needed);
            }
            ended => return ended,
        }
    }
}

proptest! {
    #[test]
    fn offsets_are_found_as_by_a_scan((base, batches) in batches(), ahead in 0..200i64) {
        let segment = Segment::of(base, &batches);
        let target = Offset(base + ahead);
        let position = position_for_offset(segment.index.offset_index(), Offset(base), target) as usize;
        let scanned = segment.batches.iter().find(|(header, _)| header.last_offset() >= target);
        let begin = segment.batches.iter().position(|(_, at)| *at == position);
        prop_assert!(begin.is_some() || position == 0, "look-ups lead to the start of a batch");
        let skipped: Vec<_> = segment.batches[begin.unwrap_or(0)..]
            .iter()
            .take_while(|(header, _)| header.last_offset() < target)
            .collect();
        prop_assert_eq!(segment.batches.get(begin.unwrap_or(0) + skipped.len()), scanned);
        let skipped_bytes: usize = skipped.iter().map(|(header, _)| header.size_in_bytes()).sum();
        prop_assert!(skipped_bytes <= 4_096 + 2 * 9_200, "{skipped_bytes} bytes are skipped without the index");
    }

    #[test]
    fn timestamps_are_found_as_by_a_scan(
        (base, batches) in batches(),
        timestamp_ms in 0..45i64,
        ahead in 0..100i64,
    ) {
        let mut segment = Segment::of(base, &batches);
        segment.index.seal();
        let (offsets, times) = (segment.index.offset_index(), segment.index.time_index());
        let start = Offset(base + ahead);
        let scanned = segment
            .batches
            .iter()
            .find(|(header, _)| header.max_timestamp >= timestamp_ms && header.last_offset() >= start)
            .map(|(header, at)| *at..at + header.size_in_bytes());
        let position = position_for_timestamp(offsets, times, Offset(base), timestamp_ms, start) as usize;
        let found = match plan_timestamp_search(&segment.bytes[position..], timestamp_ms, start) {
            ReadPlan::Batches(range) => Some(position + range.start..position + range.end),
            ReadPlan::NeedMore { from, .. } => {
                prop_assert_eq!(position + from, segment.bytes.len());
                None
            }
            damaged => panic!("{damaged:?}"),
        };
        prop_assert_eq!(found, scanned);
        let highest = segment.batches.iter().map(|(header, _)| header.max_timestamp).max();
        prop_assert_eq!(segment.index.max_timestamp_ms(), highest.unwrap_or(NO_TIMESTAMP));
        prop_assert_eq!(last_timestamp(times), highest.filter(|highest| *highest >= 0));
        prop_assert!(are_sealed_indexes_sane(Offset(base), offsets, times, segment.bytes.len() as u32)
            || last_timestamp(&times[..times.len().min(TIME_ENTRY_BYTES)]) == Some(0));
    }

    #[test]
    fn torn_indexes_are_restored(
        (base, batches) in batches(),
        durable in any::<Index>(),
        kept in any::<[Index; 2]>(),
        hole_bytes in any::<[u8; 2]>(),
        is_sealed: bool,
        chunk_bytes in 61..20_000usize,
    ) {
        let durable = Segment::of(base, &batches[..durable.index(batches.len() + 1)]);
        let mut written = Segment::of(base, &batches);
        if is_sealed {
            written.index.seal();
        }
        // Sectors tear, and none ends within an offset entry, nor within the offset of a time entry.
        let torn = |bytes: &[u8], kept: Index, hole_bytes: u8, entry_bytes: usize, tears_within: usize| {
            let mut torn = bytes[..kept.index(bytes.len() + 1)].to_vec();
            if hole_bytes >= 64 {
                torn.truncate(torn.len() / entry_bytes * entry_bytes + tears_within);
                torn.resize(torn.len() + usize::from(hole_bytes) - 64, 0);
            }
            torn
        };
        let offsets = torn(written.index.offset_index(), kept[0], hole_bytes[0], OFFSET_ENTRY_BYTES, 0);
        let times = torn(written.index.time_index(), kept[1], hole_bytes[1], TIME_ENTRY_BYTES, 8);
        let durable_bytes = durable.bytes.len() as u32;
        let restored = restore(Offset(base), &offsets, &times, durable_bytes);
        prop_assert_eq!(restored.rescan_from, restored.index.end_position());
        let mark = restored.index.mark();
        prop_assert_eq!(restored.index.offset_index(), &offsets[..mark.offset_index_bytes]);
        prop_assert_eq!(restored.index.time_index(), &times[..mark.time_index_bytes]);

        let mut index = restored.index;
        prop_assert_eq!(rescan(&mut index, &durable.bytes, chunk_bytes), ScanEnd::Complete);
        prop_assert_eq!(index.offset_index(), durable.index.offset_index());
        prop_assert_eq!(index.time_index(), durable.index.time_index());
        prop_assert_eq!(index.max_timestamp_ms(), durable.index.max_timestamp_ms());
        prop_assert_eq!(index.end_offset(), durable.index.end_offset());
        prop_assert_eq!(index.end_position(), durable_bytes);
    }

    #[test]
    fn an_intact_index_spares_the_rescan((base, count) in (0..100i64, 10..40i64)) {
        let batches: Vec<_> = (base..base + count).map(|base| batch(base, 1, base, 2_499)).collect();
        let segment = Segment::of(base, &batches);
        let (offsets, times) = (segment.index.offset_index(), segment.index.time_index());
        let restored = restore(Offset(base), offsets, times, segment.bytes.len() as u32);
        prop_assert!(segment.bytes.len() - restored.rescan_from as usize <= 3 * batches[0].len());
    }

    #[test]
    fn arbitrary_index_bytes_never_panic(
        base in prop_oneof![Just(0), Just(i64::MAX), 0..1_000i64],
        offsets in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80),
        times in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80),
        chunk in proptest::collection::vec(any::<u8>(), 0..200),
        durable_bytes: u32,
        target: i64,
    ) {
        let base = Offset(base);
        position_for_offset(&offsets, base, Offset(target));
        position_for_timestamp(&offsets, &times, base, target, Offset(target));
        are_sealed_indexes_sane(base, &offsets, &times, durable_bytes);
        let mut restored = restore(base, &offsets, &times, durable_bytes);
        prop_assert!(restored.rescan_from <= durable_bytes);
        prop_assert_eq!(restored.index.offset_index().len() % OFFSET_ENTRY_BYTES, 0);
        restored.index.extend(&chunk, restored.rescan_from);
    }
}
