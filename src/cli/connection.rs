//! One blocking connection to a broker.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use protocol::messages::{self, fetch_request::FetchRequestData, fetch_response::FetchResponseData};
use protocol::messages::{produce_request::ProduceRequestData, produce_response::ProduceResponseData};
use protocol::{ApiKey, ErrorCode, KafkaString, Request, RequestHeader, Response, client};

use crate::exit::Error;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Longer than any request here asks a broker to wait: a rebalance is the longest.
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(90);

/// More than any response that these commands ask for.
const RESPONSE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A connection that has asked for the broker's versions. Requests go one at a time.
pub struct Connection {
    address: String,
    stream: TcpStream,
    correlation_id: i32,
    versions: BTreeMap<i16, (i16, i16)>,
}

/// Sends a request of the API named and gives its response.
macro_rules! call {
    ($connection:expr, $name:ident, $version:expr, $request:expr) => {
        match $connection.call($version, &protocol::Request::$name($request))? {
            protocol::Response::$name(response) => response,
            other => unreachable!("the response was decoded for this API, but is of {:?}", other.api_key()),
        }
    };
}
pub(super) use call;

impl Connection {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], or [`Error::NotKafka`] when what listens there is something else.
    pub fn open(address: &str) -> Result<Connection, Error> {
        let unreachable = |source| Error::Unreachable { address: address.to_owned(), source };
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(unreachable)? {
            match TcpStream::connect_timeout(&candidate, CONNECT_TIME_MAX) {
                Ok(stream) => return Connection::greet(address, stream),
                Err(error) => refusal = error,
            }
        }
        Err(unreachable(refusal))
    }

    fn greet(address: &str, stream: TcpStream) -> Result<Connection, Error> {
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(RESPONSE_TIME_MAX)))
            .and_then(|()| stream.set_write_timeout(Some(RESPONSE_TIME_MAX)));
        let key = ApiKey::ApiVersions;
        let versions = BTreeMap::from([(key.wire(), (0, 0))]);
        let mut connection = Connection { address: address.to_owned(), stream, correlation_id: 0, versions };
        prepared.map_err(|source| connection.broken(source))?;
        let request = Request::ApiVersions(messages::api_versions_request::ApiVersionsRequestData::default());
        let not_kafka = |why: String| Error::NotKafka { address: address.to_owned(), why };
        let response = match connection.call(0, &request) {
            Ok(Response::ApiVersions(response)) => response,
            Ok(_) => unreachable!("the response was decoded for this API"),
            // It may be on its way out.
            Err(Error::Connection { address, source }) => return Err(Error::Unreachable { address, source }),
            Err(error) => return Err(error),
        };
        let code = ErrorCode::from(response.error_code);
        if code.is_error() {
            return Err(not_kafka(format!("{code:?} to ApiVersions")));
        }
        connection.versions =
            response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(connection)
    }

    /// Sends a request and waits for its response, of any API but Produce and Fetch.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`], after which the connection is of no use, and [`Error::NotKafka`].
    pub fn call(&mut self, version: i16, request: &Request) -> Result<Response, Error> {
        let key = request.api_key();
        let header = self.next_header(key, version)?;
        let frame = client::encode_request(&header, request).map_err(|error| self.odd(error.to_string()))?;
        let response = self.exchange(&frame)?;
        let (correlation_id, response) = client::decode_response(key, version, response)
            .map_err(|error| self.odd(format!("{} response: {error}", key.name())))?;
        self.check_order(correlation_id)?;
        Ok(response)
    }

    /// Sends a Produce; without acknowledgements there is no response.
    ///
    /// # Errors
    ///
    /// As [`Connection::call`].
    pub fn produce(
        &mut self,
        version: i16,
        request: &ProduceRequestData,
    ) -> Result<Option<ProduceResponseData>, Error> {
        let key = ApiKey::Produce;
        let header = self.next_header(key, version)?;
        let frame = client::encode_produce(&header, request).map_err(|error| self.odd(error.to_string()))?;
        if request.acks == 0 {
            self.stream.write_all(&frame).map_err(|source| self.broken(source))?;
            return Ok(None);
        }
        let response = self.exchange(&frame)?;
        match client::decode_response(key, version, response) {
            Ok((correlation_id, Response::Produce(response))) => {
                self.check_order(correlation_id)?;
                Ok(Some(response))
            }
            Ok(_) => unreachable!("the response was decoded for this API"),
            Err(error) => Err(self.odd(format!("Produce response: {error}"))),
        }
    }

    /// Sends a Fetch.
    ///
    /// # Errors
    ///
    /// As [`Connection::call`].
    pub fn fetch(&mut self, version: i16, request: FetchRequestData) -> Result<FetchResponseData, Error> {
        let header = self.next_header(ApiKey::Fetch, version)?;
        let request = Request::Fetch(request);
        let frame = client::encode_request(&header, &request).map_err(|error| self.odd(error.to_string()))?;
        let response = self.exchange(&frame)?;
        let (correlation_id, response) = client::decode_fetch_response(version, response)
            .map_err(|error| self.odd(format!("Fetch response: {error}")))?;
        self.check_order(correlation_id)?;
        Ok(response)
    }

    fn next_header(&mut self, key: ApiKey, version: i16) -> Result<RequestHeader, Error> {
        let served = self.versions.get(&key.wire());
        if !served.is_some_and(|(min, max)| (*min..=*max).contains(&version)) {
            return Err(self.odd(format!("it does not serve {} in version {version}", key.name())));
        }
        self.correlation_id = self.correlation_id.wrapping_add(1);
        Ok(RequestHeader {
            api_key: key.wire(),
            api_version: version,
            correlation_id: self.correlation_id,
            client_id: Some(KafkaString::from_static("chronik-server")),
        })
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<Bytes, Error> {
        self.stream.write_all(frame).map_err(|source| self.broken(source))?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|source| self.broken(source))?;
        let length = u64::from(u32::from_be_bytes(length));
        if length > RESPONSE_BYTES_MAX {
            return Err(self.odd(format!("a response of {length} bytes")));
        }
        // Room grows with what arrives, not with what is claimed.
        let mut response = Vec::new();
        (&self.stream).take(length).read_to_end(&mut response).map_err(|source| self.broken(source))?;
        if response.len() as u64 != length {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Bytes::from(response))
    }

    fn check_order(&self, correlation_id: i32) -> Result<(), Error> {
        if correlation_id == self.correlation_id {
            Ok(())
        } else {
            Err(self.odd(format!("response {correlation_id} to request {}", self.correlation_id)))
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Connection { address: self.address.clone(), source }
    }

    fn odd(&self, why: String) -> Error {
        Error::NotKafka { address: self.address.clone(), why }
    }
}
