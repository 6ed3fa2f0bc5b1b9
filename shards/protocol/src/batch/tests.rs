use bytes::{Bytes, BytesMut};
use kacrab_protocol::record as generated;
use proptest::prelude::*;

use super::*;
use crate::messages::ErrorCode;

const MIB: usize = 1 << 20;

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;
/// Timestamp, key, value, headers.
type Input = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Headers);

fn bytes_from_hex(hex: &str) -> BytesMut {
    let digits: Vec<u8> = hex.bytes().map(|digit| (digit as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let headers = prop::collection::vec((bytes(), prop::option::of(bytes())), 0..3);
    let time = 1_600_000_000_000..1_800_000_000_000i64;
    prop::collection::vec((time, prop::option::of(bytes()), prop::option::of(bytes()), headers), 1..20)
}

fn build(options: BatchOptions, inputs: &[Input]) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    for (timestamp, key, value, headers) in inputs {
        let headers: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers);
    }
    builder.build()
}

fn read(batch: &[u8]) -> Result<Vec<Record>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    records(&header, &Bytes::copy_from_slice(batch), MIB)?.collect()
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

/// A batch with one field of its header changed and the CRC set anew.
fn with_field(batch: &BytesMut, at: usize, bytes: &[u8]) -> BytesMut {
    let mut changed = batch.clone();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    write_crc(&mut changed);
    changed
}

fn validate(batch: &BytesMut) -> Result<BatchHeader, BatchError> {
    validate_produced(&mut batch.clone(), MIB)
}

/// The same three records as kafka-python 2.3 writes them with each codec.
const FOREIGN: [(Codec, &str); 5] = [
    (
        Codec::None,
        "00000000000000000000009100000000022787b8cf0000000000020000018bcfe568000000018bcfe56807ffff\
         ffffffffffffffffffffffff000000033a000000066b65790a76616c7565040a7472616365040102086e6f6e65\
         016c000e0201607365636f6e64207365636f6e64207365636f6e64207365636f6e64207365636f6e6420736563\
         6f6e64207365636f6e64001400010408676f6e650100",
    ),
    (
        Codec::Gzip,
        "00000000000000000000007c0000000002d4b34ea60001000000020000018bcfe568000000018bcfe56807ffff\
         ffffffffffffffffffffffff000000031f8b08007ade006b02ffb362606060cb4eade42a4bcc294d65e12a294a\
         4c4e656164e2c8cbcf4b65cc61e063624c284e4dcecf4b51209a6210616064e1480719c00000d4ca0099600000\
         00",
    ),
    (
        Codec::Snappy,
        "00000000000000000000008a0000000002529eb1400002000000020000018bcfe568000000018bcfe56807ffff\
         ffffffffffffffffffffffff0000000382534e415050590000000001000000010000004560c83a000000066b65\
         790a76616c7565040a7472616365040102086e6f6e65016c000e0201607365636f6e64207365636f6e64207382\
         0e002c001400010408676f6e650100",
    ),
    (
        Codec::Lz4,
        "00000000000000000000008500000000026d26f9fa0003000000020000018bcfe568000000018bcfe56807ffff\
         ffffffffffffffffffffffff0000000304224d1868406000000000000000e73d000000ff1c3a000000066b6579\
         0a76616c7565040a7472616365040102086e6f6e65016c000e0201607365636f6e6420070016c0001400010408\
         676f6e65010000000000",
    ),
    (
        Codec::Zstd,
        "000000000000000000000079000000000200ef8bc60004000000020000018bcfe568000000018bcfe56807ffff\
         ffffffffffffffffffffffff0000000328b52ffd2060fd010074033a000000066b65790a76616c7565040a7472\
         616365040102086e6f6e65016c000e0201607365636f6e6420001400010408676f6e650100010023a89401",
    ),
];

/// One transactional record as kafka-python 2.3 writes it.
const FOREIGN_TRANSACTIONAL: &str = "00000000000000000000003a0000000002a4e62f7f0010000000000000018bcfe568000000018bcfe568000000\
     0000000012670003000000630000000110000000026b027600";

fn foreign_inputs() -> Vec<Input> {
    let trace = vec![(b"trace".to_vec(), Some(vec![1, 2])), (b"none".to_vec(), None)];
    let second = ["second"; 7].join(" ").into_bytes();
    vec![
        (1_700_000_000_000, Some(b"key".to_vec()), Some(b"value".to_vec()), trace),
        (1_700_000_000_007, None, Some(second), vec![]),
        (1_699_999_999_999, Some(b"gone".to_vec()), None, vec![]),
    ]
}

fn assert_records(found: &[Record], base_offset: i64, expected: &[Input]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, (timestamp, key, value, headers))) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.offset, Offset(base_offset + index as i64));
        assert_eq!(found.timestamp, *timestamp);
        assert_eq!(found.key.as_deref(), key.as_deref());
        assert_eq!(found.value.as_deref(), value.as_deref());
        let found: Vec<_> = found
            .headers
            .iter()
            .map(|header| (header.key.to_vec(), header.value.as_ref().map(|v| v.to_vec())))
            .collect();
        assert_eq!(&found, headers);
    }
}

#[test]
fn batches_of_another_client_are_read() {
    for (codec, hex) in FOREIGN {
        let mut batch = bytes_from_hex(hex);
        let unchanged = batch.clone();
        let header = validate_produced(&mut batch, MIB).unwrap();
        assert_eq!(batch, unchanged);
        assert_eq!(header.codec(), Ok(codec));
        assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_700_000_000_000, 1_700_000_000_007));
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
        assert_records(&read(&batch).unwrap(), 0, &foreign_inputs());
    }
}

#[test]
fn our_batches_are_those_of_another_client() {
    assert_eq!(build(BatchOptions::default(), &foreign_inputs()), bytes_from_hex(FOREIGN[0].1));
    let options = BatchOptions {
        transactional: true,
        producer: Some(Producer { id: 4711, epoch: 3, base_sequence: 99 }),
        ..BatchOptions::default()
    };
    let record = (1_700_000_000_000, Some(b"k".to_vec()), Some(b"v".to_vec()), vec![]);
    let batch = build(options, &[record]);
    assert_eq!(batch, bytes_from_hex(FOREIGN_TRANSACTIONAL));
    let header = validate(&batch).unwrap();
    assert!(header.is_transactional() && header.has_producer_id() && !header.is_control());
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4711, 3, 99));
    assert_eq!(header.crc, 0xa4e6_2f7f);
}

#[test]
fn what_a_producer_may_not_send() {
    use BatchError::*;

    let good = build(BatchOptions::default(), &foreign_inputs());
    assert!(validate(&good).is_ok());
    let (count, at_attributes, at_producer) = (3, ATTRIBUTES_AT, 43);
    let change = |at, bytes: &[u8]| validate(&with_field(&good, at, bytes)).unwrap_err();
    let invalid_count = |record_count, last_offset_delta| InvalidCount { record_count, last_offset_delta };
    let invalid_producer = |producer_id, producer_epoch, base_sequence| InvalidProducer {
        producer_id,
        producer_epoch,
        base_sequence,
    };

    let mut wrong_crc = good.clone();
    wrong_crc[CRC_AT] ^= 1;
    assert!(matches!(validate(&wrong_crc), Err(CrcMismatch { actual: 0x2787_b8cf, claimed: 0x2687_b8cf })));
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(validate(&flipped), Err(CrcMismatch { .. })));

    let mut two = good.clone();
    two.extend_from_slice(&good);
    let size = good.len();
    let table = [
        (validate(&BytesMut::new()).unwrap_err(), Empty, ErrorCode::InvalidRecord),
        (
            validate(&good.clone().split_to(60)).unwrap_err(),
            Truncated { needed: 61, available: 60 },
            ErrorCode::CorruptMessage,
        ),
        (
            validate(&good.clone().split_to(size - 1)).unwrap_err(),
            Truncated { needed: size, available: size - 1 },
            ErrorCode::CorruptMessage,
        ),
        (validate(&two).unwrap_err(), TrailingBytes { count: size }, ErrorCode::InvalidRecord),
        (
            validate_produced(&mut good.clone(), size - 1).unwrap_err(),
            TooLarge { bytes: size, bytes_max: size - 1 },
            ErrorCode::MessageTooLarge,
        ),
        (change(MAGIC_AT, &[0]), OldFormat { magic: 0 }, ErrorCode::UnsupportedForMessageFormat),
        (change(MAGIC_AT, &[1]), OldFormat { magic: 1 }, ErrorCode::UnsupportedForMessageFormat),
        (change(MAGIC_AT, &[3]), UnknownFormat { magic: 3 }, ErrorCode::CorruptMessage),
        (change(LENGTH_AT, &48i32.to_be_bytes()), InvalidLength { length: 48 }, ErrorCode::CorruptMessage),
        (change(LENGTH_AT, &(-1i32).to_be_bytes()), InvalidLength { length: -1 }, ErrorCode::CorruptMessage),
        (change(0, &7i64.to_be_bytes()), InvalidBaseOffset { base_offset: 7 }, ErrorCode::InvalidRecord),
        (change(at_attributes, &[0, 5]), UnknownCodec { id: 5 }, ErrorCode::UnsupportedCompressionType),
        (change(at_attributes, &[0, 0x20]), ControlBatch, ErrorCode::InvalidRecord),
        (change(at_attributes, &[0, 0x08]), LogAppendTime, ErrorCode::InvalidTimestamp),
        (change(at_attributes, &[0, 0x40]), DeleteHorizon, ErrorCode::InvalidRecord),
        (change(at_attributes, &[0, 0x10]), invalid_producer(-1, -1, -1), ErrorCode::InvalidRecord),
        (change(at_producer, &9i64.to_be_bytes()), invalid_producer(9, -1, -1), ErrorCode::InvalidRecord),
        (change(23, &3i32.to_be_bytes()), invalid_count(count, 3), ErrorCode::InvalidRecord),
        (change(57, &0i32.to_be_bytes()), invalid_count(0, 2), ErrorCode::InvalidRecord),
        (change(57, &i32::MIN.to_be_bytes()), invalid_count(i32::MIN, 2), ErrorCode::InvalidRecord),
        // The base timestamp is such that the second record's would pass the largest one.
        (change(27, &(i64::MAX - 1).to_be_bytes()), InvalidRecord { index: 1 }, ErrorCode::InvalidRecord),
        // The length of the first record.
        (change(61, &[0x38]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
        (change(61, &[0x3c]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
        // Its offset delta, the length of its key, the count of its headers.
        (change(64, &[2]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
        (change(65, &[0x3f]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
        (change(75, &[6]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
        (change(75, &[1]), InvalidRecord { index: 0 }, ErrorCode::InvalidRecord),
    ];
    for (found, expected, code) in table {
        assert_eq!(found, expected);
        assert_eq!(found.error_code(), code, "{found}");
    }
}

#[test]
fn fewer_records_than_bytes_are_refused() {
    let batch = build(BatchOptions::default(), &foreign_inputs());
    let batch = with_field(&with_field(&batch, 57, &2i32.to_be_bytes()), 23, &1i32.to_be_bytes());
    assert_eq!(validate(&batch), Err(BatchError::InvalidRecord { index: 2 }));
    assert_eq!(read(&batch), Err(BatchError::InvalidRecord { index: 2 }));
}

#[test]
fn a_missing_largest_timestamp_is_corrected() {
    for codec in Codec::ALL {
        let good = build(BatchOptions { codec, ..BatchOptions::default() }, &foreign_inputs());
        let mut batch = with_field(&good, MAX_TIMESTAMP_AT, &(-1i64).to_be_bytes());
        let header = validate_produced(&mut batch, MIB).unwrap();
        assert_eq!(batch, good, "{codec:?}");
        assert_eq!(header, BatchHeader::parse(&good).unwrap());
    }
    // An uncompressed batch is corrected whatever it claims.
    let good = build(BatchOptions::default(), &foreign_inputs());
    let mut batch = with_field(&good, MAX_TIMESTAMP_AT, &i64::MAX.to_be_bytes());
    validate_produced(&mut batch, MIB).unwrap();
    assert_eq!(batch, good);
}

#[test]
fn assigned_fields_lie_outside_the_crc() {
    let mut batch = build(BatchOptions::default(), &foreign_inputs());
    assign(&mut batch, Offset(1_000), 7);
    let header = BatchHeader::parse(&batch).unwrap();
    check_crc(&header, &batch).unwrap();
    assert_eq!((header.base_offset, header.partition_leader_epoch), (Offset(1_000), 7));
    assert_eq!((header.last_offset(), header.next_offset()), (Offset(1_002), Offset(1_003)));
    assert_records(&read(&batch).unwrap(), 1_000, &foreign_inputs());
}

#[test]
fn append_time_replaces_every_timestamp() {
    for codec in Codec::ALL {
        let mut batch = build(BatchOptions { codec, ..BatchOptions::default() }, &foreign_inputs());
        set_log_append_time(&mut batch, 1_800_000_000_000);
        let header = BatchHeader::parse(&batch).unwrap();
        check_crc(&header, &batch).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!(header.codec(), Ok(codec));
        assert_eq!(header.max_timestamp, 1_800_000_000_000);
        assert!(read(&batch).unwrap().iter().all(|record| record.timestamp == 1_800_000_000_000));
    }
}

#[test]
fn compaction_leaves_gaps() {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset: Offset(50), ..BatchOptions::default() });
    builder.append_at(3, 10, Some(b"a"), None, &[]);
    builder.append_at(9, 11, Some(b"b"), None, &[]);
    let batch = builder.build();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.record_count, header.last_offset()), (2, Offset(59)));
    let offsets: Vec<_> = read(&batch).unwrap().iter().map(|record| record.offset.0).collect();
    assert_eq!(offsets, [53, 59]);
    assert!(matches!(validate(&with_field(&batch, 0, &[0; 8])), Err(BatchError::InvalidCount { .. })));
}

#[test]
fn sequences_wrap_to_zero() {
    let batch = |base_sequence| {
        let producer = Some(Producer { id: 1, epoch: 0, base_sequence });
        let batch = build(BatchOptions { producer, ..BatchOptions::default() }, &foreign_inputs());
        validate(&batch).unwrap().last_sequence()
    };
    assert_eq!(batch(0), 2);
    assert_eq!(batch(i32::MAX - 2), i32::MAX);
    assert_eq!(batch(i32::MAX - 1), 0);
    assert_eq!(batch(i32::MAX), 1);
    let without = build(BatchOptions::default(), &foreign_inputs());
    assert_eq!(BatchHeader::parse(&without).unwrap().last_sequence(), -1);
}

#[test]
fn transaction_markers_round_trip() {
    for marker in
        [ControlRecord::Abort { coordinator_epoch: 3 }, ControlRecord::Commit { coordinator_epoch: 70_000 }]
    {
        let batch = control_batch(marker, 4711, 5, 1_700_000_000_000);
        assert_eq!(validate(&batch), Err(BatchError::ControlBatch));
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.is_control() && header.is_transactional());
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4711, 5, -1));
        let found = read(&batch).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(ControlRecord::parse(&found[0]), Ok(marker));
    }
    let mut leader_change =
        read(&control_batch(ControlRecord::Abort { coordinator_epoch: 0 }, 1, 0, 0)).unwrap().remove(0);
    leader_change.key = Some(Bytes::from_static(&[0, 0, 0, 2]));
    assert_eq!(ControlRecord::parse(&leader_change), Ok(ControlRecord::Other { kind: 2 }));
    leader_change.key = None;
    assert_eq!(ControlRecord::parse(&leader_change), Err(BatchError::InvalidRecord { index: 0 }));
}

#[test]
fn concatenated_batches_end_at_the_first_bad_one() {
    let first = build(BatchOptions::default(), &foreign_inputs());
    let second = build(BatchOptions { base_offset: Offset(3), ..BatchOptions::default() }, &foreign_inputs());
    let both = [&first[..], &second[..]].concat();
    let (size, first_size) = (both.len(), first.len());
    let found: Vec<_> = batches(&both).map(Result::unwrap).collect();
    let expected: Vec<_> = [(&first, 0..first_size), (&second, first_size..size)]
        .into_iter()
        .map(|(batch, range)| (BatchHeader::parse(batch).unwrap(), range))
        .collect();
    assert_eq!(found, expected);

    let found: Vec<_> = batches(&both[..size - 1]).collect();
    let truncated = BatchError::Truncated { needed: second.len(), available: second.len() - 1 };
    assert_eq!(found, [Ok(expected[0].clone()), Err(truncated)]);
    assert_eq!(batches(&[]).next(), None);
    let zeros = [0; 100];
    let found: Vec<_> = batches(&zeros).collect();
    assert_eq!(found, [Err(BatchError::OldFormat { magic: 0 })]);
}

proptest! {
    #[test]
    fn records_round_trip(inputs in inputs(), codec in codecs(), base_offset in 0..1_000_000i64) {
        let mut batch = build(BatchOptions { codec, ..BatchOptions::default() }, &inputs);
        let header = validate_produced(&mut batch, MIB).unwrap();
        prop_assert_eq!(header.max_timestamp, inputs.iter().map(|input| input.0).max().unwrap());
        assign(&mut batch, Offset(base_offset), 1);
        assert_records(&read(&batch).unwrap(), base_offset, &inputs);
    }

    /// A second implementation of the format reads what we write, and writes what we read.
    #[test]
    fn agrees_with_another_implementation(inputs in inputs()) {
        let batch = build(BatchOptions::default(), &inputs);
        let theirs = generated::RecordBatch::decode(&mut batch.clone().freeze()).unwrap();
        prop_assert_eq!(theirs.records.len(), inputs.len());
        for (theirs, (timestamp, key, value, headers)) in theirs.records.iter().zip(&inputs) {
            prop_assert_eq!(theirs.timestamp_delta + inputs[0].0, *timestamp);
            prop_assert_eq!(theirs.key.as_deref(), key.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), value.as_deref());
            prop_assert_eq!(theirs.headers.len(), headers.len());
        }
        let mut encoded = BytesMut::new();
        theirs.encode(&mut encoded).unwrap();
        prop_assert_eq!(encoded, batch);
    }

    #[test]
    fn every_flipped_bit_is_noticed(inputs in inputs(), codec in codecs(), at: prop::sample::Index, bit in 0..8u8) {
        let mut batch = build(BatchOptions { codec, ..BatchOptions::default() }, &inputs);
        let position = at.index(batch.len());
        prop_assume!(!(LEADER_EPOCH_AT..MAGIC_AT).contains(&position));
        batch[position] ^= 1 << bit;
        prop_assert!(validate_produced(&mut batch, MIB).is_err());
    }

    /// Damage that a hostile client covers with a matching CRC: refused or read within the bound, never a panic;
    /// and what validation of an uncompressed batch lets pass can be read.
    #[test]
    fn covered_damage_never_panics(
        inputs in inputs(),
        codec in codecs(),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let mut batch = build(BatchOptions { codec, ..BatchOptions::default() }, &inputs);
        let position = at.index(batch.len());
        batch[position] ^= flip;
        write_crc(&mut batch);
        let validated = validate_produced(&mut batch, MIB);
        let found = read(&batch);
        if validated.is_ok_and(|header| header.codec() == Ok(Codec::None)) {
            prop_assert!(found.is_ok(), "{:?}", found);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), codec in codecs()) {
        let _ = validate_produced(&mut bytes.clone(), MIB);
        let _ = read(&bytes);
        prop_assert!(batches(&bytes).count() <= 1 + bytes.len() / HEADER_BYTES);
        // Random records behind a valid header.
        let mut batch = build(BatchOptions { codec, ..BatchOptions::default() }, &foreign_inputs());
        batch.truncate(HEADER_BYTES);
        batch.extend_from_slice(&bytes);
        let length = (batch.len() - LOG_OVERHEAD_BYTES) as i32;
        let batch = with_field(&batch, LENGTH_AT, &length.to_be_bytes());
        let _ = validate(&batch);
        let _ = read(&batch);
    }

    #[test]
    fn the_callers_bound_holds(inputs in inputs(), codec in codecs(), bytes_max in 0..3_000usize) {
        let batch = build(BatchOptions { codec, ..BatchOptions::default() }, &inputs).freeze();
        let plain = build(BatchOptions::default(), &inputs).len() - HEADER_BYTES;
        let header = BatchHeader::parse(&batch).unwrap();
        match records(&header, &batch, bytes_max) {
            Ok(_) => prop_assert!(plain <= bytes_max),
            Err(error) => {
                prop_assert!(plain > bytes_max);
                prop_assert_eq!(error, BatchError::DecompressedTooLarge { bytes_max });
            }
        }
    }
}
