use bytes::Buf;
use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{PRODUCE_VERSION_MIN, SUPPORTED},
    client,
    messages::{ErrorCode, RawTaggedField, kafka_string},
    schema::{self, generate_request},
};

fn header(key: ApiKey, api_version: i16) -> RequestHeader {
    RequestHeader {
        api_key: key.wire(),
        api_version,
        correlation_id: 7,
        client_id: Some(kafka_string("rdkafka")),
    }
}

/// Every version of every API that goes through [`decode_request`].
fn every_request() -> impl Strategy<Value = (ApiKey, i16)> {
    let all: Vec<_> = SUPPORTED
        .iter()
        .filter(|range| range.key != ApiKey::Produce)
        .flat_map(|range| (range.min_version..=range.max_version).map(|version| (range.key, version)))
        .collect();
    prop::sample::select(all)
}

fn entropy() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The schema table and the generated code agree on every version: what the table generates is decoded to
    /// the last byte, and encodes to the same bytes.
    #[test]
    fn requests_round_trip((key, version) in every_request(), entropy in entropy()) {
        let body = generate_request(key, version, &entropy);
        let request = decode_request(&header(key, version), Bytes::from(body.clone())).unwrap();
        prop_assert_eq!(request.api_key(), key);
        let mut encoded = BytesMut::new();
        request.write(&mut encoded, version).unwrap();
        prop_assert_eq!(&encoded[..], &body[..]);
        prop_assert_eq!(request.encoded_len(version).unwrap(), body.len());
    }

    /// Through both ends of the wire, header included.
    #[test]
    fn frames_round_trip((key, version) in every_request(), entropy in entropy(), named: bool) {
        let body = generate_request(key, version, &entropy);
        let mut header = header(key, version);
        if !named {
            header.client_id = None;
        }
        let request = decode_request(&header, Bytes::from(body)).unwrap();
        let mut frame = client::encode_request(&header, &request).unwrap();
        prop_assert_eq!(frame.get_i32() as usize, frame.len());
        prop_assert_eq!(&decode_header(&mut frame).unwrap(), &header);
        prop_assert_eq!(decode_request(&header, frame.freeze()).unwrap(), request);
    }

    #[test]
    fn trailing_bytes_are_ignored((key, version) in every_request(), entropy in entropy(), extra in 1..9usize) {
        let mut body = generate_request(key, version, &entropy);
        let request = decode_request(&header(key, version), Bytes::from(body.clone())).unwrap();
        body.resize(body.len() + extra, 0);
        prop_assert_eq!(decode_request(&header(key, version), Bytes::from(body)).unwrap(), request);
    }

    #[test]
    fn truncated_requests_are_refused((key, version) in every_request(), entropy in entropy(), at: prop::sample::Index) {
        let mut body = generate_request(key, version, &entropy);
        prop_assume!(!body.is_empty());
        body.truncate(at.index(body.len()));
        prop_assert!(decode_request(&header(key, version), Bytes::from(body)).is_err());
    }

    #[test]
    fn random_bytes_never_panic((key, version) in every_request(), bytes in entropy()) {
        let _ = decode_request(&header(key, version), Bytes::from(bytes));
    }

    #[test]
    fn damaged_requests_never_panic(
        (key, version) in every_request(),
        entropy in entropy(),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let mut body = generate_request(key, version, &entropy);
        if !body.is_empty() {
            let position = at.index(body.len());
            body[position] ^= flip;
        }
        let _ = decode_request(&header(key, version), Bytes::from(body));
    }

    #[test]
    fn random_frames_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut frame = BytesMut::from(&bytes[..]);
        if let Ok(header) = decode_header(&mut frame) {
            prop_assert_eq!(header.correlation_id, i32::from_be_bytes(bytes[4..8].try_into().unwrap()));
            let _ = decode_request(&header, frame.freeze());
        } else {
            prop_assert!(bytes.len() < 10 || ApiKey::from_wire(i16::from_be_bytes([bytes[0], bytes[1]])).is_some());
        }
    }
}

#[test]
fn the_header_version_follows_from_key_and_version() {
    // Metadata 8 has header 1, Metadata 9 header 2 with a tagged field that is skipped.
    let old = b"\x00\x03\x00\x08\x00\x00\x00\x2a\x00\x02ab\xaa\xbb";
    let new = b"\x00\x03\x00\x09\x00\x00\x00\x2a\x00\x02ab\x01\x05\x03xyz\xaa\xbb";
    for (frame, version) in [(&old[..], 8), (&new[..], 9)] {
        let mut frame = BytesMut::from(frame);
        let header = decode_header(&mut frame).unwrap();
        assert_eq!((header.api_key, header.api_version, header.correlation_id), (3, version, 42));
        assert_eq!(header.client_id, Some(kafka_string("ab")));
        assert_eq!(&frame[..], b"\xaa\xbb");
    }
}

#[test]
fn unknown_requests_yield_their_correlation_id() {
    for frame in [
        &b"\x03\xe7\x00\x00\x00\x00\x00\x2a"[..],
        b"\x00\x12\x00\x63\x00\x00\x00\x2a\x00\x01a\x00rest",
        b"\x00\x12\x00\x63\x00\x00\x00\x2a\x7f\xff",
        b"\x00\x01\x00\x03\x00\x00\x00\x2a\x00\x01\xff",
    ] {
        let mut frame = BytesMut::from(frame);
        let header = decode_header(&mut frame).unwrap();
        assert_eq!(header.correlation_id, 42);
        assert!(frame.is_empty());
        let error = decode_request(&header, Bytes::new()).unwrap_err();
        assert_eq!(error.error_code(), ErrorCode::UnsupportedVersion);
    }
    assert!(matches!(decode_header(&mut BytesMut::from(&[0; 7][..])), Err(DecodeError::Truncated)));
}

#[test]
fn produce_does_not_come_this_way() {
    let error = decode_request(&header(ApiKey::Produce, 9), Bytes::new()).unwrap_err();
    assert!(matches!(error, DecodeError::UnsupportedApi { api_key: 0 }));
}

#[test]
fn hostile_lengths_are_refused_before_anything_is_reserved() {
    let check = |key: ApiKey, version, body: &[u8]| schema::check_request(key, version, body).unwrap_err();
    // Two billion topics.
    assert!(matches!(check(ApiKey::Metadata, 1, b"\x7f\xff\xff\xff"), DecodeError::Truncated));
    assert!(matches!(check(ApiKey::Metadata, 9, b"\xff\xff\xff\xff\x07"), DecodeError::Truncated));
    // No topics, then four billion tagged fields.
    let tags = b"\x00\x01\x00\xff\xff\xff\xff\x0f";
    assert!(matches!(check(ApiKey::Metadata, 12, tags), DecodeError::Truncated));
    // The same inside the only tagged field of Fetch that holds a struct.
    let mut fetch = vec![0; 4 + 4 + 4 + 1 + 4 + 4];
    fetch.extend_from_slice(b"\x01\x01\x01\x01\x01\x11");
    fetch.extend_from_slice(&[0; 12]);
    fetch.extend_from_slice(b"\xff\xff\xff\xff\x0f");
    assert!(matches!(check(ApiKey::Fetch, 15, &fetch), DecodeError::Truncated));
    // Null where the schema has no null.
    assert!(matches!(check(ApiKey::Metadata, 0, b"\xff\xff\xff\xff"), DecodeError::InvalidLength));
    assert!(matches!(check(ApiKey::DeleteGroups, 0, b"\xff\xff\xff\xff"), DecodeError::InvalidLength));
    assert!(matches!(check(ApiKey::SaslHandshake, 0, b"\xff\xff"), DecodeError::InvalidLength));
}

#[test]
fn a_request_has_a_bounded_number_of_elements() {
    let mut body = ((REQUEST_ELEMENTS_MAX + 1) as i32).to_be_bytes().to_vec();
    body.resize(4 + 2 * (REQUEST_ELEMENTS_MAX + 1), 0);
    let error = schema::check_request(ApiKey::Metadata, 1, &body).unwrap_err();
    assert!(matches!(error, DecodeError::TooManyElements));
    body.truncate(4 + 2 * REQUEST_ELEMENTS_MAX);
    body[..4].copy_from_slice(&(REQUEST_ELEMENTS_MAX as i32).to_be_bytes());
    assert!(schema::check_request(ApiKey::Metadata, 1, &body).is_ok());
}

#[test]
fn responses_round_trip_in_every_version() {
    for range in SUPPORTED.iter().filter(|range| range.key != ApiKey::Fetch) {
        let first = if range.key == ApiKey::Produce { PRODUCE_VERSION_MIN } else { range.min_version };
        for version in first..=range.max_version {
            let response = Response::default_of(range.key).unwrap();
            let frame = encode_response(version, 42, &response).unwrap();
            assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
            let (correlation_id, decoded) =
                client::decode_response(range.key, version, frame.slice(4..)).unwrap();
            assert_eq!((correlation_id, decoded.api_key()), (42, range.key));
            // A default may differ from what a version without the field is decoded to, but not twice.
            assert_eq!(encode_response(version, 42, &decoded).unwrap(), frame, "{:?} {version}", range.key);
        }
    }
}

#[test]
fn response_headers_by_hand() {
    let hex = |bytes: Bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let heartbeat = Response::Heartbeat(
        messages::heartbeat_response::HeartbeatResponseData::default().with_error_code(27),
    );
    expect!["0000000a0000002a00000000001b"].assert_eq(&hex(encode_response(3, 42, &heartbeat).unwrap()));
    expect!["0000000c0000002a0000000000001b00"].assert_eq(&hex(encode_response(4, 42, &heartbeat).unwrap()));
    let versions = Response::ApiVersions(
        messages::api_versions_response::ApiVersionsResponseData::default().with_error_code(35),
    );
    expect!["0000000a0000002a002300000000"].assert_eq(&hex(encode_response(0, 42, &versions).unwrap()));
    expect!["0000000c0000002a0023010000000000"].assert_eq(&hex(encode_response(3, 42, &versions).unwrap()));
}

#[test]
fn a_field_that_the_version_lacks_is_an_error() {
    let request = messages::heartbeat_response::HeartbeatResponseData::default();
    let tagged = messages::heartbeat_response::HeartbeatResponseData {
        _unknown_tagged_fields: vec![
            RawTaggedField { tag: 5, data: Bytes::new() },
            RawTaggedField { tag: 5, data: Bytes::new() },
        ],
        ..request
    };
    assert!(matches!(encode_response(4, 1, &Response::Heartbeat(tagged)), Err(EncodeError::Message(_))));
    let versions = Response::ApiVersions(Default::default());
    assert!(matches!(encode_response(9, 1, &versions), Err(EncodeError::Message(_))));
}
