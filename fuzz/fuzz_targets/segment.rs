//! Segments and their indexes as they may come back from a disk: every plan has an answer and stays inside the chunk.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use log::segment::{
    ReadPlan, ScanEnd, SegmentIndex, TIME_ENTRY_BYTES, are_sealed_indexes_sane, last_timestamp, offset_for_timestamp, plan_read,
    plan_timestamp_search, position_for_offset, position_for_timestamp, restore,
};
use protocol::batch::{BatchOptions, batches};
use types::Offset;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    base: u32,
    target: u32,
    limit: u32,
    max_bytes: u16,
    timestamp_ms: i64,
    index: &'a [u8],
    time_index: &'a [u8],
    segment: Segment<'a>,
}

#[derive(Arbitrary, Debug)]
enum Segment<'a> {
    Raw(&'a [u8]),
    /// Batches in order, then some bits flipped.
    Batches { batches: Vec<(u8, u16)>, flips: Vec<(u16, u8)> },
}

fuzz_target!(|input: Input| {
    let base = Offset(input.base.into());
    let segment = match input.segment {
        Segment::Raw(bytes) => bytes.to_vec(),
        Segment::Batches { batches, flips } => make_segment(base, &batches, &flips),
    };
    let durable = segment.len() as u32;
    scan(base, &input.index, &input.time_index, &segment, durable);
    let (target, limit) = (Offset(input.target.into()), Offset(input.limit.into()));
    check_plan(&plan_read(&segment, target, limit, input.max_bytes.into()), segment.len());
    check_plan(&plan_timestamp_search(&segment, input.timestamp_ms, target), segment.len());
    for _ in batches(&segment).take(1000) {}
    let mut text = String::new();
    log::dump::dump_segment(&mut text, 0, &segment).expect("text takes everything");
    // Index files of a sealed segment are used only where they are sane.
    if are_sealed_indexes_sane(base, input.index, input.time_index, durable) {
        assert!(position_for_offset(input.index, base, target) < durable.max(1));
        assert!(offset_for_timestamp(input.time_index, base, input.timestamp_ms) >= base);
        let at = position_for_timestamp(input.index, input.time_index, base, input.timestamp_ms, target);
        assert!(at < durable.max(1));
        let _ = last_timestamp(input.time_index);
    }
});

/// Restoring from files and scanning from the beginning come to one index, or the files were wrong.
fn scan(base: Offset, index: &[u8], time_index: &[u8], segment: &[u8], durable: u32) {
    let mut fresh = SegmentIndex::new(base);
    let fresh_end = fresh.extend(segment, 0);
    assert!(fresh.end_position() <= durable);
    let restored = restore(base, index, time_index, durable);
    assert!(restored.rescan_from <= durable, "nothing beyond the segment is trusted");
    let mut rescanned = restored.index;
    let end = rescanned.extend(&segment[restored.rescan_from as usize..], restored.rescan_from);
    if let (ScanEnd::Damaged { at }, ScanEnd::Damaged { at: fresh_at }) = (end, fresh_end) {
        assert!(restored.rescan_from as usize + at <= segment.len() && fresh_at <= segment.len());
    }
    fresh.seal();
    // An index that begins with the year 1970 is taken for a hole in the file, and made again.
    let is_doubtful = fresh.time_index().first_chunk() == Some(&[0; TIME_ENTRY_BYTES]);
    assert!(
        is_doubtful || are_sealed_indexes_sane(base, fresh.offset_index(), fresh.time_index(), fresh.end_position()),
        "an index made of a segment is sane"
    );
    // The files of the index itself bring it back.
    let complete = &segment[..fresh.end_position() as usize];
    let again = restore(base, fresh.offset_index(), fresh.time_index(), fresh.end_position());
    let mut index = again.index;
    index.extend(&complete[again.rescan_from as usize..], again.rescan_from);
    index.seal();
    assert_eq!(index.offset_index(), fresh.offset_index());
    assert_eq!(index.end_offset(), fresh.end_offset());
}

fn check_plan(plan: &ReadPlan, bytes: usize) {
    match plan {
        ReadPlan::Batches(range) => assert!(range.start <= range.end && range.end <= bytes),
        ReadPlan::NeedMore { from, bytes: needed } => assert!(*from <= bytes && *needed > 0),
        ReadPlan::Damaged { at } => assert!(*at < bytes),
    }
}

fn make_segment(base: Offset, shapes: &[(u8, u16)], flips: &[(u16, u8)]) -> Vec<u8> {
    let mut segment = Vec::new();
    let mut next = base;
    for &(count, bytes) in shapes.iter().take(64) {
        let mut batch = protocol::batch::BatchBuilder::new(BatchOptions::default());
        for number in 0..=count % 8 {
            let timestamp_ms = i64::from(bytes) * 100 + i64::from(number);
            batch.append(timestamp_ms, None, Some(&vec![number; usize::from(bytes % 3000)]), &[]);
        }
        let mut built = batch.build();
        protocol::batch::assign(&mut built, next, 1);
        next = protocol::BatchHeader::parse(&built).expect("it was just built").next_offset();
        segment.extend_from_slice(&built);
    }
    for &(at, bits) in flips {
        if !segment.is_empty() {
            let at = usize::from(at) % segment.len();
            segment[at] ^= bits;
        }
    }
    segment
}
