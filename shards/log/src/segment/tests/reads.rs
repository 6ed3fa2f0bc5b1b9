use proptest::prelude::*;

use super::*;
use crate::segment::{ReadPlan, plan_read};

const NO_LIMIT: Offset = Offset(i64::MAX);

/// Three batches: offsets 10 to 12, 13, 20 to 21.
fn three_batches() -> [Vec<u8>; 3] {
    [batch(10, 3, 5, 100), batch(13, 1, 7, 1_000), batch(20, 2, 6, 100)]
}

#[test]
fn reads_return_whole_batches_from_the_one_that_covers_the_target() {
    let [first, second, third] = three_batches();
    let chunk = [first.clone(), second.clone(), third.clone()].concat();
    let second_at = first.len();
    let third_at = second_at + second.len();
    let end = chunk.len();
    let batches = |from, to| ReadPlan::Batches(from..to);
    for (target, limit, max_bytes, expected) in [
        (0, NO_LIMIT, usize::MAX, batches(0, end)),
        (12, NO_LIMIT, usize::MAX, batches(0, end)),
        (13, NO_LIMIT, usize::MAX, batches(second_at, end)),
        (14, NO_LIMIT, usize::MAX, batches(third_at, end)),
        (21, NO_LIMIT, usize::MAX, batches(third_at, end)),
        (22, NO_LIMIT, usize::MAX, ReadPlan::NeedMore { from: end, bytes: 61 }),
        (10, NO_LIMIT, 0, batches(0, second_at)),
        (13, NO_LIMIT, 1, batches(second_at, third_at)),
        (10, NO_LIMIT, third_at, batches(0, third_at)),
        (10, NO_LIMIT, third_at - 1, batches(0, second_at)),
        (10, Offset(20), usize::MAX, batches(0, third_at)),
        (10, Offset(14), usize::MAX, batches(0, third_at)),
        (10, Offset(13), usize::MAX, batches(0, second_at)),
        (13, Offset(13), usize::MAX, batches(0, 0)),
    ] {
        assert_eq!(
            plan_read(&chunk, Offset(target), limit, max_bytes),
            expected,
            "{target} {limit} {max_bytes}"
        );
    }
}

#[test]
fn a_chunk_that_ends_early_asks_for_more() {
    let [first, second, _] = three_batches();
    let chunk = [first.clone(), second.clone()].concat();
    let second_at = first.len();
    for cut in 0..chunk.len() {
        let expected = match cut {
            _ if cut <= second_at => {
                ReadPlan::NeedMore { from: 0, bytes: if cut < 61 { 61 } else { second_at } }
            }
            _ if cut < second_at + 61 => ReadPlan::NeedMore { from: second_at, bytes: 61 },
            _ => ReadPlan::NeedMore { from: second_at, bytes: second.len() },
        };
        let expected = match cut {
            0 => ReadPlan::NeedMore { from: 0, bytes: 61 },
            _ if cut == second_at => ReadPlan::NeedMore { from: second_at, bytes: 61 },
            _ => expected,
        };
        assert_eq!(plan_read(&chunk[..cut], Offset(13), NO_LIMIT, 10_000), expected, "{cut}");
    }
    assert_eq!(
        plan_read(&chunk[..chunk.len() - 1], Offset(10), NO_LIMIT, 10_000),
        ReadPlan::Batches(0..second_at)
    );
}

#[test]
fn damage_is_told_from_a_short_chunk() {
    let [first, second, third] = three_batches();
    let disordered = [first.clone(), third.clone(), second].concat();
    let expected = ReadPlan::Damaged { at: first.len() + third.len() };
    assert_eq!(plan_read(&disordered, Offset(30), NO_LIMIT, 10_000), expected);
    let padded = [first.clone(), vec![0; 100]].concat();
    assert_eq!(plan_read(&padded, Offset(13), NO_LIMIT, 10_000), ReadPlan::Damaged { at: first.len() });
    assert_eq!(plan_read(&padded, Offset(10), NO_LIMIT, 10_000), ReadPlan::Batches(0..first.len()));
    let mut backwards = first.clone();
    backwards[23..27].copy_from_slice(&(-1i32).to_be_bytes());
    assert_eq!(plan_read(&backwards, Offset(10), NO_LIMIT, 10_000), ReadPlan::Damaged { at: 0 });
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        target in 0..40i64,
        max_bytes in 0..3_000usize,
    ) {
        let mut chunk = three_batches().concat();
        for (place, byte) in places {
            let at = place.index(chunk.len());
            chunk[at] = byte;
        }
        for chunk in [&chunk[..], &noise[..], &[&chunk[..], &noise[..]].concat()] {
            match plan_read(chunk, Offset(target), NO_LIMIT, max_bytes) {
                ReadPlan::Batches(range) => prop_assert!(range.end <= chunk.len()),
                ReadPlan::NeedMore { from, bytes } => prop_assert!(from + bytes > chunk.len()),
                ReadPlan::Damaged { at } => prop_assert!(at < chunk.len()),
            }
        }
    }
}
