//! Everything that a frame from a client goes through before the broker acts on it.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use protocol::batch::validate_produced;
use protocol::{ApiKey, SUPPORTED, decode_header, decode_request, produce};

/// Kafka's default for `message.max.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// The bytes behind a length prefix.
    Frame(&'a [u8]),
    /// A request that reaches the decoder of an API.
    Body { api: u8, version: u8, body: &'a [u8] },
}

fuzz_target!(|input: Input| {
    match input {
        Input::Frame(frame) => decode(BytesMut::from(frame)),
        Input::Body { api, version, body } => {
            let range = SUPPORTED[usize::from(api) % SUPPORTED.len()];
            let versions = i16::from(version) % (range.max_version - range.min_version + 1);
            let version = range.min_version + versions;
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&range.key.wire().to_be_bytes());
            frame.extend_from_slice(&version.to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 7, 0xff, 0xff]);
            if range.key.is_flexible(version) {
                frame.extend_from_slice(&[0]);
            }
            frame.extend_from_slice(body);
            decode(frame);
        }
    }
});

fn decode(mut frame: BytesMut) {
    let Ok(header) = decode_header(&mut frame) else { return };
    if header.api_key != ApiKey::Produce.wire() {
        if let Ok(request) = decode_request(&header, frame.freeze()) {
            assert_eq!(request.api_key().wire(), header.api_key, "a request is what its header says");
        }
        return;
    }
    let Ok(request) = produce::decode_produce(frame, header.api_version) else { return };
    for partition in request.topics.into_iter().flat_map(|topic| topic.partitions) {
        if let Some(mut records) = partition.records {
            let before = records.clone();
            match validate_produced(&mut records, MESSAGE_BYTES_MAX) {
                Ok(header) => assert_eq!(header.size_in_bytes(), records.len(), "exactly one batch is taken"),
                Err(_) => assert_eq!(records, before, "what is refused is left alone"),
            }
        }
    }
}
