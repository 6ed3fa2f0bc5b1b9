//! `produce`: lines of standard input become records.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use protocol::ErrorCode;
use protocol::batch::{BatchBuilder, BatchOptions, Producer as BatchProducer};
use protocol::messages::init_producer_id_request::InitProducerIdRequestData;
use protocol::messages::kafka_string;
use protocol::messages::produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData};
use protocol::messages::produce_response::{PartitionProduceResponse, ProduceResponseData};

use super::cluster::{self, Cluster, RETRY_PAUSE, RETRY_TIME_MAX, TopicLeaders};
use super::connection::call;
use super::output;
use super::partitioner::partition_of;
use crate::exit::Error;
use crate::options::{Acks, Options, ProduceOptions};

const PRODUCE_VERSION: i16 = 9;
const INIT_PRODUCER_ID_VERSION: i16 = 2;

/// How long the broker may wait for replicas, milliseconds.
const ACK_TIME_MAX_MS: i32 = 30_000;

/// Bytes of records in one batch; a longer line makes a batch of its own.
const BATCH_BYTES: usize = 512 * 1024;

/// The longest line that is taken, bytes: no topic accepts more.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Lines read ahead of the broker.
const LINES_AHEAD: usize = 1_024;

/// Sends standard input to a topic, line by line. Lines that are there together travel together; nothing waits for
/// more to come.
///
/// # Errors
///
/// The first record that the broker refuses, and whatever keeps it from being asked.
pub fn run(options: &Options, produce: &ProduceOptions) -> Result<(), Error> {
    let mut producer = Producer::start(Cluster::connect(options)?, produce)?;
    let lines = read_lines()?;
    let mut sent = 0u64;
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => {
                producer.flush()?;
                let Ok(line) = lines.recv() else { break };
                line
            }
            Err(TryRecvError::Disconnected) => break,
        };
        sent += 1;
        let line =
            line.map_err(|source| Error::File { operation: "read", path: "standard input".into(), source })?;
        let (key, value) = split_line(&line, produce.key_separator.as_deref(), sent)?;
        producer.add(key, value)?;
    }
    producer.flush()?;
    let records = if sent == 1 { "record" } else { "records" };
    output::tell(format_args!("sent {sent} {records} to {}", produce.topic));
    Ok(())
}

/// Reads lines on a thread of its own, so that what has been read can be sent while the next line is typed.
fn read_lines() -> Result<Receiver<io::Result<Vec<u8>>>, Error> {
    let (sender, receiver) = bounded(LINES_AHEAD);
    let run = move || {
        let mut input = io::stdin().lock();
        while let Some(line) = read_line(&mut input).transpose() {
            let is_end = line.is_err();
            if sender.send(line).is_err() || is_end {
                return;
            }
        }
    };
    match thread::Builder::new().name("input".to_owned()).spawn(run) {
        Ok(_) => Ok(receiver),
        Err(source) => Err(Error::System { what: "start a thread for standard input", source }),
    }
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    } else if line.len() as u64 > LINE_BYTES_MAX {
        return Err(io::Error::other(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(Some(line))
}

fn split_line<'a>(
    line: &'a [u8],
    separator: Option<&str>,
    number: u64,
) -> Result<(Option<&'a [u8]>, &'a [u8]), Error> {
    let Some(separator) = separator else { return Ok((None, line)) };
    let separator = separator.as_bytes();
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => Ok((Some(&line[..at]), &line[at + separator.len()..])),
        None => Err(Error::Command(format!("line {number} of standard input has no key separator"))),
    }
}

/// Collects records by partition and sends them until they are acknowledged. With `acks=all` it is idempotent: a
/// batch that is sent again is not stored again.
struct Producer {
    cluster: Cluster,
    topic: TopicLeaders,
    partitions: Vec<i32>,
    acks: Acks,
    identity: Option<(i64, i16)>,
    sequences: BTreeMap<i32, i32>,
    fixed_partition: Option<i32>,
    keyless: usize,
    open: BTreeMap<i32, BatchBuilder>,
    records: BTreeMap<i32, i32>,
}

impl Producer {
    fn start(mut cluster: Cluster, options: &ProduceOptions) -> Result<Producer, Error> {
        let topic = cluster.topic(&options.topic, true)?;
        if let Some(partition) = options.partition.filter(|partition| !topic.leaders.contains_key(partition))
        {
            return Err(cluster::no_partition(&topic, partition));
        }
        let identity = match options.acks {
            Acks::All => Some(cluster.retry(init_producer_id)?),
            Acks::Leader | Acks::None => None,
        };
        Ok(Producer {
            cluster,
            partitions: topic.leaders.keys().copied().collect(),
            topic,
            acks: options.acks,
            identity,
            sequences: BTreeMap::new(),
            fixed_partition: options.partition,
            keyless: 0,
            open: BTreeMap::new(),
            records: BTreeMap::new(),
        })
    }

    fn add(&mut self, key: Option<&[u8]>, value: &[u8]) -> Result<(), Error> {
        let partition = match (self.fixed_partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => self.partitions[partition_of(key, self.partitions.len())],
            (None, None) => self.partitions[self.keyless % self.partitions.len()],
        };
        let record_bytes = key.map_or(0, <[u8]>::len) + value.len();
        if self.open.get(&partition).is_some_and(|batch| batch.size_in_bytes() + record_bytes > BATCH_BYTES) {
            self.flush()?;
        }
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let producer = self.identity.map(|(id, epoch)| BatchProducer { id, epoch, base_sequence: sequence });
        let batch = self
            .open
            .entry(partition)
            .or_insert_with(|| BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() }));
        batch.append(now_ms(), key, Some(value), &[]);
        *self.records.entry(partition).or_default() += 1;
        Ok(())
    }

    /// Sends everything that was added and waits for its acknowledgements.
    fn flush(&mut self) -> Result<(), Error> {
        // Records without keys change partitions from batch to batch, as those of Kafka's clients do.
        self.keyless = self.keyless.wrapping_add(1);
        let open = std::mem::take(&mut self.open);
        let mut batches: BTreeMap<i32, Bytes> =
            open.into_iter().map(|(partition, batch)| (partition, batch.build().freeze())).collect();
        let started = Instant::now();
        while !batches.is_empty() {
            let Err(error) = self.send(&mut batches) else { continue };
            if !cluster::is_retriable(&error) || started.elapsed() > RETRY_TIME_MAX {
                return Err(error);
            }
            if !matches!(error, Error::Kafka { .. }) {
                self.cluster.reconnect();
            }
            thread::sleep(RETRY_PAUSE);
            self.topic = self.cluster.topic(&self.topic.name, true)?;
        }
        for (partition, count) in std::mem::take(&mut self.records) {
            let sequence = self.sequences.entry(partition).or_default();
            // Sequences go from 2³¹−1 to 0.
            *sequence = sequence.wrapping_add(count) & i32::MAX;
        }
        Ok(())
    }

    /// One request to each leader; acknowledged batches leave `batches`.
    fn send(&mut self, batches: &mut BTreeMap<i32, Bytes>) -> Result<(), Error> {
        let waiting: Vec<i32> = batches.keys().copied().collect();
        for (node, partitions) in cluster::by_leader(&self.topic, &waiting)? {
            let partition_data = partitions.iter().map(|partition| PartitionProduceData {
                index: *partition,
                records: batches.get(partition).cloned(),
                ..PartitionProduceData::default()
            });
            let request = ProduceRequestData {
                acks: self.acks.wire(),
                timeout_ms: ACK_TIME_MAX_MS,
                topic_data: vec![TopicProduceData {
                    name: kafka_string(&self.topic.name),
                    partition_data: partition_data.collect(),
                    ..TopicProduceData::default()
                }],
                ..ProduceRequestData::default()
            };
            match self.cluster.node(node)?.produce(PRODUCE_VERSION, &request)? {
                None => batches.retain(|partition, _| !partitions.contains(partition)),
                Some(response) => self.take_acknowledgements(response, batches)?,
            }
        }
        Ok(())
    }

    fn take_acknowledgements(
        &self,
        response: ProduceResponseData,
        batches: &mut BTreeMap<i32, Bytes>,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        for partition in response.responses.into_iter().flat_map(|topic| topic.partition_responses) {
            match ErrorCode::from(partition.error_code) {
                // A duplicate was stored at the first attempt, whose answer was lost.
                ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                    batches.remove(&partition.index);
                }
                code => outcome = Err(self.refusal(code, &partition)),
            }
        }
        outcome
    }

    fn refusal(&self, code: ErrorCode, partition: &PartitionProduceResponse) -> Error {
        let of_record =
            partition.record_errors.iter().find_map(|record| record.batch_index_error_message.as_ref());
        let message = partition.error_message.as_ref().or(of_record);
        Error::Kafka {
            what: format!("produce to {}-{}", self.topic.name, partition.index),
            code,
            message: message.map(|message| message.as_str().to_owned()),
        }
    }
}

fn init_producer_id(cluster: &mut Cluster) -> Result<(i64, i16), Error> {
    let request = InitProducerIdRequestData {
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequestData::default()
    };
    let response = call!(cluster.any()?, InitProducerId, INIT_PRODUCER_ID_VERSION, request);
    cluster::check(response.error_code, None, || "producer id".to_owned())?;
    Ok((response.producer_id, response.producer_epoch))
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends() {
        let mut input: &[u8] = b"a\nb\r\n\nc\rd\n\xff";
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).expect("short lines") {
            lines.push(line);
        }
        assert_eq!(lines, [&b"a"[..], b"b", b"", b"c\rd", b"\xff"]);
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let endless = io::repeat(b'x').take(LINE_BYTES_MAX + 5);
        assert!(read_line(&mut io::BufReader::new(endless)).is_err());
        let longest = io::repeat(b'x').take(LINE_BYTES_MAX);
        assert!(read_line(&mut io::BufReader::new(longest)).is_ok_and(|line| line.is_some()));
    }

    #[test]
    fn keys_end_at_the_first_separator() {
        let split = |line: &'static str, separator| {
            split_line(line.as_bytes(), separator, 3).map_err(|error| error.to_string())
        };
        assert_eq!(split("a:b:c", None), Ok((None, &b"a:b:c"[..])));
        assert_eq!(split("a:b:c", Some(":")), Ok((Some(&b"a"[..]), &b"b:c"[..])));
        assert_eq!(split("=>", Some("=>")), Ok((Some(&b""[..]), &b""[..])));
        assert_eq!(split("a", Some(":")), Err("line 3 of standard input has no key separator".to_owned()));
    }
}
