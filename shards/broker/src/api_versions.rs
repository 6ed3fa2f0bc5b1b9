//! ApiVersions (key 18): the first request of most clients, answered in any version.

use bytes::Bytes;
use protocol::api::{ApiKey, SUPPORTED};
use protocol::frame::{self, Request, RequestHeader, Response};
use protocol::messages::ErrorCode;
use protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponseData};

use crate::state::State;
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, body: Bytes) -> Step {
    let range = SUPPORTED.iter().find(|range| range.key == ApiKey::ApiVersions).expect("it is served");
    if !(range.min_version..=range.max_version).contains(&info.api_version) {
        return refuse_version(info);
    }
    let header = RequestHeader {
        api_key: ApiKey::ApiVersions.wire(),
        api_version: info.api_version,
        correlation_id: info.correlation_id,
        client_id: None,
    };
    let mut response = supported();
    match frame::decode_request(&header, body) {
        Ok(Request::ApiVersions(request))
            if info.api_version >= 3
                && !(is_valid(request.client_software_name.as_str())
                    && is_valid(request.client_software_version.as_str())) =>
        {
            response.error_code = ErrorCode::InvalidRequest.code();
        }
        Ok(_) => {}
        Err(error) => return Step::Close(format!("ApiVersions version {}: {error}", info.api_version)),
    }
    // Metadata versions and other cluster-wide features: none is finalized, at the epoch of the image.
    response.finalized_features_epoch = i64::try_from(state.image.epoch().0).unwrap_or(-1);
    Step::Reply(Response::ApiVersions(response))
}

/// Of the software's name and version, KIP-511 asks for letters, digits, dots and dashes, beginning and ending with a letter or digit.
fn is_valid(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn supported() -> ApiVersionsResponseData {
    let entry = |range: &protocol::api::ApiRange| ApiVersion {
        api_key: range.key.wire(),
        min_version: range.min_version,
        max_version: range.max_version,
        ..ApiVersion::default()
    };
    ApiVersionsResponseData { api_keys: SUPPORTED.iter().map(entry).collect(), ..Default::default() }
}

/// A version from the future gets an answer that every version can read (KIP-35): v0, listing ApiVersions itself.
fn refuse_version(info: RequestInfo<'_>) -> Step {
    let mut response = supported();
    response.error_code = ErrorCode::UnsupportedVersion.code();
    response.api_keys.retain(|entry| entry.api_key == ApiKey::ApiVersions.wire());
    match frame::encode_response(0, info.correlation_id, &Response::ApiVersions(response)) {
        Ok(bytes) => Step::Encoded(vec![bytes]),
        Err(error) => Step::Close(format!("ApiVersions response cannot be encoded: {error}")),
    }
}
