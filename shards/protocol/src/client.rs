//! The client's end of the wire: encodes requests and decodes responses.
//!
//! For the simulator, tools and tests. Responses are taken for those of a broker that is trusted: unlike requests,
//! they are not checked before the generated decoder reads them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    api::ApiKey,
    error::{DecodeError, EncodeError},
    frame::{Request, RequestHeader, Response},
    messages::{KafkaString, fetch_response::FetchResponseData, produce_request::ProduceRequestData},
    wire::{read_i32, skip_tagged_fields},
};

/// Encodes a request with its length prefix and header.
///
/// # Errors
///
/// When the API has no such version, when a field is set that the version lacks, or when a length does not fit.
///
/// # Panics
///
/// When the header is for another API.
pub fn encode_request(header: &RequestHeader, request: &Request) -> Result<BytesMut, EncodeError> {
    assert_eq!(header.api_key, request.api_key().wire(), "header and request name one API");
    let body_bytes = request.encoded_len(header.api_version)?;
    let mut frame = begin_request(header, body_bytes)?;
    request.write(&mut frame, header.api_version)?;
    Ok(frame)
}

/// Encodes a Produce, which has no variant in [`Request`].
///
/// # Errors
///
/// As [`encode_request`].
///
/// # Panics
///
/// When the header is for another API.
pub fn encode_produce(header: &RequestHeader, request: &ProduceRequestData) -> Result<BytesMut, EncodeError> {
    assert_eq!(header.api_key, ApiKey::Produce.wire(), "header and request name one API");
    let body_bytes = request.encoded_len(header.api_version)?;
    let mut frame = begin_request(header, body_bytes)?;
    request.write(&mut frame, header.api_version)?;
    Ok(frame)
}

fn begin_request(header: &RequestHeader, body_bytes: usize) -> Result<BytesMut, EncodeError> {
    let key = ApiKey::from_wire(header.api_key).expect("requests are for known APIs");
    let tagged_fields = key.is_flexible(header.api_version);
    let client_id_bytes = header.client_id.as_ref().map_or(0, KafkaString::len);
    let client_id_len = match &header.client_id {
        Some(_) => {
            i16::try_from(client_id_bytes).map_err(|_| EncodeError::TooLarge { bytes: client_id_bytes })?
        }
        None => -1,
    };
    let frame_bytes = 10 + client_id_bytes + usize::from(tagged_fields) + body_bytes;
    let length = i32::try_from(frame_bytes).map_err(|_| EncodeError::TooLarge { bytes: frame_bytes })?;
    let mut frame = BytesMut::with_capacity(4 + frame_bytes);
    frame.put_i32(length);
    frame.put_i16(header.api_key);
    frame.put_i16(header.api_version);
    frame.put_i32(header.correlation_id);
    frame.put_i16(client_id_len);
    frame.put_slice(header.client_id.as_ref().map_or(&[], KafkaString::as_bytes));
    if tagged_fields {
        frame.put_u8(0);
    }
    Ok(frame)
}

/// Decodes a response of any API but Fetch from a frame without its length prefix: correlation id and response.
///
/// # Errors
///
/// When the frame is not exactly one well-formed response of the API in the version.
pub fn decode_response(
    key: ApiKey,
    api_version: i16,
    mut frame: Bytes,
) -> Result<(i32, Response), DecodeError> {
    let correlation_id = read_response_header(key, api_version, &mut frame)?;
    let response = Response::read(key, api_version, &mut frame)?;
    end_of_frame(&frame).map(|()| (correlation_id, response))
}

/// Decodes a Fetch response, which has no variant in [`Response`].
///
/// # Errors
///
/// As [`decode_response`].
pub fn decode_fetch_response(
    api_version: i16,
    mut frame: Bytes,
) -> Result<(i32, FetchResponseData), DecodeError> {
    let correlation_id = read_response_header(ApiKey::Fetch, api_version, &mut frame)?;
    let response = FetchResponseData::read(&mut frame, api_version)?;
    end_of_frame(&frame).map(|()| (correlation_id, response))
}

fn read_response_header(key: ApiKey, api_version: i16, frame: &mut Bytes) -> Result<i32, DecodeError> {
    let correlation_id = read_i32(frame)?;
    if key.has_flexible_response_header(api_version) {
        skip_tagged_fields(frame, |_, _| Ok::<_, DecodeError>(()))?;
    }
    Ok(correlation_id)
}

fn end_of_frame(frame: &Bytes) -> Result<(), DecodeError> {
    if frame.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes { count: frame.len() }) }
}
