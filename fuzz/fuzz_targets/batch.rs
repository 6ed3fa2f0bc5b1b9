//! Record batches of all codecs, from clients and from segments: nothing panics, and what inflates stays bounded.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use protocol::batch::{
    BatchHeader, HEADER_BYTES, LOG_OVERHEAD_BYTES, assign, batches, check_crc, records, validate_produced,
};
use types::Offset;

const INFLATED_BYTES_MAX: usize = 1 << 20;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const CRC_END: usize = 21;
const CODEC_AT: usize = 22;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Whether length, magic and CRC are put right, so that what lies behind them is reached.
    repair: bool,
    codec: Option<u8>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    let mut bytes = BytesMut::from(input.bytes);
    if input.repair && bytes.len() >= HEADER_BYTES {
        bytes[..8].fill(0);
        let length = (bytes.len() - LOG_OVERHEAD_BYTES) as u32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[MAGIC_AT] = 2;
        if let Some(codec) = input.codec {
            bytes[CODEC_AT] = bytes[CODEC_AT] & !7 | codec % 5;
        }
        let crc = crc32c::crc32c(&bytes[CRC_END..]);
        bytes[CRC_AT..CRC_END].copy_from_slice(&crc.to_be_bytes());
    }
    for batch in batches(&bytes) {
        let Ok((header, batch)) = batch else { break };
        assert_eq!(header.size_in_bytes(), batch.len(), "a batch is as long as it says");
    }
    walk(&bytes);
    let Ok(header) = validate_produced(&mut bytes, MESSAGE_BYTES_MAX) else { return };
    assert_eq!(header, BatchHeader::parse(&bytes).expect("it was just taken"), "the header is corrected in place");
    check_crc(&header, &bytes).expect("the CRC is kept right");
    assign(&mut bytes, Offset(1 << 40), 7);
    let assigned = BatchHeader::parse(&bytes).expect("offsets do not harm a batch");
    check_crc(&assigned, &bytes).expect("the CRC does not cover offset and epoch");
    walk(&bytes);
});

fn walk(bytes: &[u8]) {
    let Ok(header) = BatchHeader::parse(bytes) else { return };
    let Some(batch) = bytes.get(..header.size_in_bytes()) else { return };
    let _ = check_crc(&header, batch);
    let Ok(found) = records(&header, &Bytes::copy_from_slice(batch), INFLATED_BYTES_MAX) else { return };
    let mut bytes = 0;
    for record in found {
        let Ok(record) = record else { return };
        bytes += record.key.map_or(0, |key| key.len()) + record.value.map_or(0, |value| value.len());
        assert!(bytes <= INFLATED_BYTES_MAX, "records hold no more than was inflated");
    }
}
