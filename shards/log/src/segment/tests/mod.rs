mod indexes;
mod lists;
mod reads;

use protocol::batch::{BatchBuilder, BatchHeader, BatchOptions};
use types::Offset;

use super::{NO_TIMESTAMP, SegmentFile, SegmentIndex};

/// A batch of `count` records from `base` on, whose values have `value_bytes` each.
fn batch(base: i64, count: usize, timestamp_ms: i64, value_bytes: usize) -> Vec<u8> {
    let options = BatchOptions { base_offset: Offset(base), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for _ in 0..count {
        builder.append(timestamp_ms, None, Some(&vec![7; value_bytes]), &[]);
    }
    builder.build().to_vec()
}

/// A segment with the index that grew with it.
struct Segment {
    bytes: Vec<u8>,
    index: SegmentIndex,
    /// Headers with their positions.
    batches: Vec<(BatchHeader, usize)>,
}

impl Segment {
    fn of(base: i64, batches: &[Vec<u8>]) -> Segment {
        let mut segment =
            Segment { bytes: Vec::new(), index: SegmentIndex::new(Offset(base)), batches: Vec::new() };
        for batch in batches {
            let header = BatchHeader::parse(batch).expect("a valid batch");
            let position = segment.bytes.len();
            segment.index.on_batch(&header, position as u32, batch.len() as u32);
            segment.bytes.extend_from_slice(batch);
            segment.batches.push((header, position));
        }
        segment
    }
}

#[test]
fn file_names_are_those_of_kafka() {
    let names = SegmentFile::ALL.map(|file| file.name(Offset(368_769)));
    assert_eq!(
        names,
        ["00000000000000368769.log", "00000000000000368769.index", "00000000000000368769.timeindex"]
    );
    for (name, file) in names.iter().zip(SegmentFile::ALL) {
        assert_eq!(SegmentFile::parse_name(name), Some((Offset(368_769), file)));
    }
    for name in [
        "",
        ".log",
        "368769.log",
        "+0000000000000368769.log",
        "99999999999999999999.log",
        "00000000000000368769.snapshot",
        "00000000000000368769.log.deleted",
    ] {
        assert_eq!(SegmentFile::parse_name(name), None, "{name}");
    }
}
