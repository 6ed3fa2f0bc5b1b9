use proptest::prelude::*;
use types::limits::BLOCK_BYTES;

use super::*;
use crate::wal::{FLUSH_HEADER_BYTES, FlushView, flushes, parse_file_name};

const MAGIC: &[u8] = &[0xc7, b'C', b'h', b'r', b'W', b'A', b'L', 0xa7];

fn bytes_up_to(len: usize) -> impl Strategy<Value = Bytes> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..len).prop_map(|(byte, len)| vec![byte; len]),
        (0..len / MAGIC.len(), 0..MAGIC.len())
            .prop_map(|(count, skip)| MAGIC.repeat(count + 1)[skip..].to_vec()),
    ]
    .prop_map(Bytes::from)
}

fn any_record() -> impl Strategy<Value = Record> {
    let numbers = any::<[u64; 4]>();
    (0..5u8, numbers, any::<u8>(), bytes_up_to(300), bytes_up_to(20_000)).prop_map(
        |(kind, [a, b, c, d], entry_type, context, data)| match kind {
            0 => Record::Entry {
                group: GroupId(a),
                term: Term(b),
                index: LogIndex(c),
                entry_type,
                context,
                data,
            },
            1 => Record::HardState { group: GroupId(a), term: Term(b), vote: c, commit: LogIndex(d) },
            2 => Record::Checkpoint { group: GroupId(a), index: LogIndex(b), term: Term(c), state: data },
            3 => Record::Truncated { group: GroupId(a), from: LogIndex(b) },
            _ => Record::GroupRemoved { group: GroupId(a) },
        },
    )
}

fn read_back(content: &[u8], position: usize) -> Option<(FlushView<'_>, Vec<Record>)> {
    let view = FlushView::at(content, position)?;
    let records = view.records()?.iter().map(|record| record.to_owned()).collect();
    Some((view, records))
}

proptest! {
    #[test]
    fn what_was_pushed_is_read_back(
        records in proptest::collection::vec(any_record(), 1..12),
        file_sequence: u64,
        flush_sequence: u64,
    ) {
        let mut builder = FlushBuilder::new(file_sequence, flush_sequence);
        for record in &records {
            let promised = builder.len_bytes_with(record.encoded_bytes());
            builder.push(record.clone());
            prop_assert_eq!(builder.len_bytes(), promised);
        }
        let promised = builder.len_bytes();
        let flush = builder.finish();
        prop_assert_eq!(flush.bytes, promised);
        prop_assert_eq!(flush.bytes % BLOCK_BYTES, 0);
        let content = flat(&flush);
        prop_assert!(content.chunks(BLOCK_BYTES).skip(1).all(|block| !block.starts_with(MAGIC)));

        let shifted = [vec![0; BLOCK_BYTES], content.clone(), content.clone()].concat();
        prop_assert_eq!(flushes(&shifted).count(), 2);
        let (view, read) = read_back(&shifted, BLOCK_BYTES).expect("a valid flush");
        prop_assert_eq!((view.position, view.bytes), (BLOCK_BYTES, flush.bytes));
        prop_assert_eq!((view.file_sequence, view.flush_sequence), (file_sequence, flush_sequence));
        prop_assert_eq!(read, records);
    }

    #[test]
    fn a_flipped_bit_invalidates_the_flush(
        records in proptest::collection::vec(any_record(), 1..5),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut content = build(3, 4, &records);
        let unpadded = FLUSH_HEADER_BYTES + records.iter().map(Record::encoded_bytes).sum::<usize>();
        content[place.index(unpadded)] ^= 1 << bit;
        prop_assert!(FlushView::at(&content, 0).is_none());
    }

    #[test]
    fn arbitrary_bytes_are_no_flush(
        mut content in proptest::collection::vec(any::<u8>(), 0..3 * BLOCK_BYTES),
        claimed: u32,
        position in 0..4 * BLOCK_BYTES,
    ) {
        content.splice(..content.len().min(MAGIC.len()), MAGIC.iter().copied());
        if let Some(field) = content.get_mut(16..20) {
            field.copy_from_slice(&claimed.to_le_bytes());
        }
        prop_assert!(FlushView::at(&content, 0).is_none());
        prop_assert!(FlushView::at(&content, position).is_none());
    }

    #[test]
    fn arbitrary_bytes_are_decoded_without_panic(content in proptest::collection::vec(0..5u8, 0..200)) {
        let mut input = &content[..];
        while crate::wal::RecordRef::decode(&mut input).is_some() {}
    }
}

#[test]
fn large_payloads_are_shared_and_small_ones_packed() {
    let data = Bytes::from(vec![7; 5_000]);
    let mut builder = FlushBuilder::new(1, 1);
    assert!(builder.is_empty());
    builder.push(Record::Entry {
        group: GroupId(1),
        term: Term(1),
        index: LogIndex(1),
        entry_type: 0,
        context: Bytes::from_static(b"descriptor"),
        data: data.clone(),
    });
    builder.push(entry(2, 1, 1, b"small"));
    builder.push(hard_state(2, 1, 0, 0));
    let flush = builder.finish();
    let lengths: Vec<_> = flush.parts.iter().map(Bytes::len).collect();
    assert_eq!(lengths[0], FLUSH_HEADER_BYTES + 34 + "descriptor".len());
    assert_eq!(flush.parts[1].as_ptr(), data.as_ptr());
    assert_eq!(lengths.len(), 4, "head, payload, the rest, padding: {lengths:?}");
    assert_eq!(flush.bytes, 2 * BLOCK_BYTES);
}

#[test]
fn a_flush_carried_as_a_payload_is_never_found() {
    let forged = build(1, 9, &[hard_state(5, 5, 5, 5)]);
    let mut data = vec![0; BLOCK_BYTES - FLUSH_HEADER_BYTES - 34];
    data.extend_from_slice(&forged);
    data.extend_from_slice(&forged);
    let record = entry(1, 1, 1, &data);
    let content = build(1, 2, std::slice::from_ref(&record));
    let found: Vec<_> = flushes(&content).map(|flush| (flush.position, flush.flush_sequence)).collect();
    assert_eq!(found, [(0, 2)]);
    assert_eq!(read_back(&content, 0).expect("a valid flush").1, [record]);

    // Torn after its first block, the flush is invalid and what is left of the payload is no flush either.
    let mut torn = content.clone();
    torn[..BLOCK_BYTES].fill(0);
    assert_eq!(flushes(&torn).count(), 0);
    let recovered = recover_files(&[(1, torn)]).expect("a torn tail");
    assert_eq!(recovered.next_flush_sequence, 1);
}

#[test]
fn the_header_is_laid_out_as_documented() {
    let content = build(0x1122, 0x3344, &[removed(0x55)]);
    let hex: Vec<_> = content[..64].chunks(8).map(|row| format!("{row:02x?}")).collect();
    expect_test::expect![[r#"
        [c7, 43, 68, 72, 57, 41, 4c, a7]
        [01, 00, 00, 00, 49, 4c, b8, f1]
        [09, 00, 00, 00, 01, 00, 00, 00]
        [22, 11, 00, 00, 00, 00, 00, 00]
        [44, 33, 00, 00, 00, 00, 00, 00]
        [00, 00, 00, 00, 00, 00, 00, 00]
        [04, 55, 00, 00, 00, 00, 00, 00]
        [00, 00, 00, 00, 00, 00, 00, 00]"#]]
    .assert_eq(&hex.join("\n"));
}

#[test]
fn file_names() {
    assert_eq!(file_name(0x1a2b), "0000000000001a2b.wal");
    assert_eq!(parse_file_name("0000000000001a2b.wal"), Some(0x1a2b));
    for name in
        ["0000000000000000.wal", "1a2b.wal", "0000000000001A2B.wal", "+000000000001a2b.wal", "x.wal", ""]
    {
        assert_eq!(parse_file_name(name), None, "{name}");
    }
}
