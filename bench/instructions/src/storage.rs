//! WAL framing and segment indexes.

use std::hint::black_box;

use log::{
    segment::{SegmentIndex, position_for_offset},
    wal::{FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST, FlushBuilder, Record},
};
use protocol::batch::BatchHeader;
use types::{GroupId, LogIndex, Offset, Term};

use crate::{REPETITIONS, codec::batch, measured};

const ENTRIES: u64 = 16;
const BATCHES: i64 = 4_096;

pub fn wal_flush_16_entries() {
    let data = batch(1);
    for _ in 0..REPETITIONS {
        let records: Vec<Record> = (1..=ENTRIES)
            .map(|index| Record::Entry {
                group: GroupId(index),
                term: Term(3),
                index: LogIndex(index),
                entry_type: 0,
                context: Default::default(),
                data: data.clone(),
            })
            .collect();
        measured(|| {
            let mut flush = FlushBuilder::new(FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST);
            records.into_iter().for_each(|record| flush.push(record));
            flush.finish()
        });
    }
}

pub fn index_lookup_by_offset() {
    let one = batch(16);
    let mut index = SegmentIndex::new(Offset(0));
    for number in 0..BATCHES {
        let mut header = BatchHeader::parse(&one).expect("the batch is valid");
        header.base_offset = Offset(number * 16);
        let bytes = u32::try_from(one.len()).expect("a small batch");
        index.on_batch(&header, index.end_position(), bytes);
    }
    for at in 0..REPETITIONS {
        let target = Offset(at as i64 * 997 % (BATCHES * 16));
        measured(|| position_for_offset(black_box(index.offset_index()), Offset(0), black_box(target)));
    }
}
