//! `consume`: records become lines of standard output.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use protocol::batch::{BatchHeader, Record, check_crc, records};
use protocol::messages::fetch_request::{FetchPartition, FetchRequestData, FetchTopic};
use protocol::messages::fetch_response::{FetchResponseData, PartitionData};
use protocol::messages::kafka_string;
use protocol::{BatchError, ErrorCode};
use types::limits::DECOMPRESSED_BYTES_MAX;

use super::cluster::{self, Cluster, End, RETRY_PAUSE, RETRY_TIME_MAX, TopicLeaders};
use super::group::{Membership, Standing};
use super::output;
use crate::exit::{Error, ExitReason};
use crate::options::{ConsumeOptions, Options};

const FETCH_VERSION: i16 = 12;

/// How long a broker may wait for records, milliseconds. A signal and a rebalance are noticed in between.
const FETCH_WAIT_MS: i32 = 500;

const FETCH_BYTES: i32 = 16 * 1024 * 1024;
const PARTITION_BYTES: i32 = 1024 * 1024;

/// Prints the records of a topic until enough were printed or a signal ends it.
///
/// # Errors
///
/// Whatever keeps records from being read or printed. A closed pipe is an end, no error.
pub fn run(options: &Options, consume: &ConsumeOptions) -> Result<(), Error> {
    let stop = catch_signals()?;
    let mut cluster = Cluster::connect(options)?;
    let topic = cluster.topic(&consume.topic, false)?;
    let printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        key_separator: consume.key_separator.clone(),
        left: consume.max_messages,
        is_closed: false,
    };
    let start = if consume.from_beginning { End::Earliest } else { End::Latest };
    let mut consumer = Consumer { cluster, topic, start, positions: BTreeMap::new(), printer };
    match &consume.group {
        Some(group) => consumer.run_in_group(group, &stop),
        None => consumer.run_alone(consume.partition, &stop),
    }
}

/// The first signal asks for an end, which a group is told of; the second ends at once.
fn catch_signals() -> Result<Arc<AtomicBool>, Error> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(ExitReason::Interrupted.code());
        flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|source| Error::System { what: "catch signals", source })?;
    }
    Ok(stop)
}

/// Where records go.
struct Printer<W: Write> {
    out: W,
    key_separator: Option<String>,
    /// Records still to print; `None` for no end.
    left: Option<u64>,
    /// Nobody reads any more.
    is_closed: bool,
}

impl<W: Write> Printer<W> {
    fn is_done(&self) -> bool {
        self.is_closed || self.left == Some(0)
    }

    fn print(&mut self, record: &Record) -> Result<(), Error> {
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        let written = self.write(record);
        self.check(written)
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if let Some(separator) = &self.key_separator {
            self.out.write_all(record.key.as_deref().unwrap_or(b"null"))?;
            self.out.write_all(separator.as_bytes())?;
        }
        self.out.write_all(record.value.as_deref().unwrap_or(b"null"))?;
        self.out.write_all(b"\n")
    }

    fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.out.flush();
        self.check(flushed)
    }

    fn check(&mut self, written: io::Result<()>) -> Result<(), Error> {
        self.is_closed |= written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        output::outcome(written)
    }
}

struct Consumer<W: Write> {
    cluster: Cluster,
    topic: TopicLeaders,
    start: End,
    /// The next offset of each partition that is read.
    positions: BTreeMap<i32, i64>,
    printer: Printer<W>,
}

impl<W: Write> Consumer<W> {
    fn run_alone(&mut self, partition: Option<i32>, stop: &AtomicBool) -> Result<(), Error> {
        let partitions: Vec<i32> = match partition {
            Some(partition) if self.topic.leaders.contains_key(&partition) => vec![partition],
            Some(partition) => {
                return Err(cluster::no_partition(&self.topic, partition));
            }
            None => self.topic.leaders.keys().copied().collect(),
        };
        self.positions = self.start_of(&partitions)?;
        while !stop.load(Ordering::Relaxed) && !self.printer.is_done() {
            self.poll()?;
        }
        Ok(())
    }

    fn run_in_group(&mut self, group: &str, stop: &AtomicBool) -> Result<(), Error> {
        let mut member = Membership::new(group, &self.topic.name);
        let outcome = self.work_in_group(&mut member, stop);
        // The others need not wait for the session to expire, whatever ended this one.
        let left = member.leave(&mut self.cluster);
        outcome.and(left)
    }

    fn work_in_group(&mut self, member: &mut Membership, stop: &AtomicBool) -> Result<(), Error> {
        while !stop.load(Ordering::Relaxed) && !self.printer.is_done() {
            if !member.is_joined() {
                let committed = member.join(&mut self.cluster)?;
                self.positions = self.positions_of(committed)?;
            }
            let before = self.positions.clone();
            if self.positions.is_empty() {
                // Other members have every partition; only a rebalance can bring one.
                thread::sleep(RETRY_PAUSE);
            } else {
                self.poll()?;
            }
            // What another member reads twice is better than what nobody reads: printed first, then committed.
            let moved: BTreeMap<i32, i64> = self
                .positions
                .iter()
                .filter(|(partition, offset)| before.get(partition) != Some(offset))
                .map(|(partition, offset)| (*partition, *offset))
                .collect();
            if !moved.is_empty() && member.commit(&mut self.cluster, &moved)? == Standing::Lost {
                continue;
            }
            member.heartbeat_if_due(&mut self.cluster)?;
        }
        Ok(())
    }

    /// Committed offsets where there are any, and the chosen end of the partition elsewhere.
    fn positions_of(&mut self, committed: BTreeMap<i32, Option<i64>>) -> Result<BTreeMap<i32, i64>, Error> {
        let fresh: Vec<i32> = committed
            .iter()
            .filter(|(_, offset)| offset.is_none())
            .map(|(partition, _)| *partition)
            .collect();
        // Whoever shared the topic out may have heard of a new partition before the broker that is asked here.
        self.retry(|consumer| {
            let is_new = |partition: &&i32| !consumer.topic.leaders.contains_key(partition);
            match committed.keys().find(is_new) {
                Some(partition) => Err(Error::Kafka {
                    what: format!("partition {partition} of topic {}", consumer.topic.name),
                    code: ErrorCode::UnknownTopicOrPartition,
                    message: None,
                }),
                None => Ok(()),
            }
        })?;
        let mut positions = self.start_of(&fresh)?;
        positions.extend(committed.into_iter().filter_map(|(partition, offset)| Some((partition, offset?))));
        Ok(positions)
    }

    /// The chosen end of partitions.
    fn start_of(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Error> {
        self.retry(|consumer| consumer.cluster.offsets(&consumer.topic, partitions, consumer.start))
    }

    /// Asks every leader for records once and prints them.
    fn poll(&mut self) -> Result<(), Error> {
        self.retry(|consumer| {
            let outcome = consumer.fetch();
            // What was printed is seen, also when another leader failed.
            consumer.printer.flush()?;
            outcome
        })
    }

    /// Makes an attempt again while what fails may pass, with the leaders that there are by then.
    fn retry<T>(&mut self, attempt: impl Fn(&mut Consumer<W>) -> Result<T, Error>) -> Result<T, Error> {
        let started = Instant::now();
        loop {
            match attempt(self) {
                Err(error) if cluster::is_retriable(&error) && started.elapsed() < RETRY_TIME_MAX => {
                    if !matches!(error, Error::Kafka { .. }) {
                        self.cluster.reconnect();
                    }
                    thread::sleep(RETRY_PAUSE);
                    self.topic = self.cluster.topic(&self.topic.name, false)?;
                }
                outcome => return outcome,
            }
        }
    }

    fn fetch(&mut self) -> Result<(), Error> {
        let partitions: Vec<i32> = self.positions.keys().copied().collect();
        let by_leader = cluster::by_leader(&self.topic, &partitions)?;
        // One after the other: each may wait its part of the time.
        let wait_ms = FETCH_WAIT_MS / i32::try_from(by_leader.len()).unwrap_or(i32::MAX).max(1);
        for (node, partitions) in by_leader {
            if self.printer.is_done() {
                return Ok(());
            }
            let request = self.fetch_request(&partitions, wait_ms);
            let response = self.cluster.node(node)?.fetch(FETCH_VERSION, request)?;
            self.take(response)?;
        }
        Ok(())
    }

    fn fetch_request(&self, partitions: &[i32], wait_ms: i32) -> FetchRequestData {
        let partition = |index: &i32| FetchPartition {
            partition: *index,
            fetch_offset: self.positions[index],
            partition_max_bytes: PARTITION_BYTES,
            ..FetchPartition::default()
        };
        FetchRequestData {
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: FETCH_BYTES,
            topics: vec![FetchTopic {
                topic: kafka_string(&self.topic.name),
                partitions: partitions.iter().map(partition).collect(),
                ..FetchTopic::default()
            }],
            ..FetchRequestData::default()
        }
    }

    fn take(&mut self, response: FetchResponseData) -> Result<(), Error> {
        cluster::check(response.error_code, None, || format!("fetch from {}", self.topic.name))?;
        for partition in response.responses.into_iter().flat_map(|topic| topic.partitions) {
            self.take_partition(partition)?;
        }
        Ok(())
    }

    fn take_partition(&mut self, partition: PartitionData) -> Result<(), Error> {
        let index = partition.partition_index;
        let what = || format!("fetch from {}-{index}", self.topic.name);
        let Some(mut position) = self.positions.get(&index).copied() else { return Ok(()) };
        if ErrorCode::from(partition.error_code) == ErrorCode::OffsetOutOfRange {
            return self.restart(index, position);
        }
        cluster::check(partition.error_code, None, what)?;
        let bytes = partition.records.unwrap_or_default();
        let outcome = print_records(&mut self.printer, bytes, &mut position);
        // Whatever was printed is behind us, also when a later batch is damaged.
        self.positions.insert(index, position);
        outcome.map_err(|failure| match failure {
            Failure::Batch(error) => {
                Error::Command(format!("{}-{index} at offset {position}: {error}", self.topic.name))
            }
            Failure::Output(error) => error,
        })
    }

    /// The position is gone: records were deleted before it, or the topic is a new one.
    fn restart(&mut self, index: i32, position: i64) -> Result<(), Error> {
        let offsets = self.cluster.offsets(&self.topic, &[index], End::Earliest)?;
        let earliest = offsets.get(&index).copied().unwrap_or(0);
        let next = match self.start {
            End::Latest if position > earliest => {
                let offsets = self.cluster.offsets(&self.topic, &[index], End::Latest)?;
                offsets.get(&index).copied().unwrap_or(earliest)
            }
            _ => earliest,
        };
        let name = &self.topic.name;
        output::tell(format_args!("{name}-{index}: offset {position} is gone, going on at {next}"));
        self.positions.insert(index, next);
        Ok(())
    }
}

enum Failure {
    Batch(BatchError),
    Output(Error),
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Failure {
        Failure::Batch(error)
    }
}

/// Prints the records from `position` on and moves it behind the last one printed. The last batch may be cut off.
fn print_records<W: Write>(
    printer: &mut Printer<W>,
    mut bytes: Bytes,
    position: &mut i64,
) -> Result<(), Failure> {
    while !bytes.is_empty() && !printer.is_done() {
        let header = match BatchHeader::parse(&bytes) {
            Err(BatchError::Truncated { .. }) => return Ok(()),
            header => header?,
        };
        if bytes.len() < header.size_in_bytes() {
            return Ok(());
        }
        let batch = bytes.split_to(header.size_in_bytes());
        check_crc(&header, &batch)?;
        if !header.is_control() {
            for record in records(&header, &batch, DECOMPRESSED_BYTES_MAX)? {
                let record = record?;
                if record.offset.0 < *position {
                    continue;
                }
                if printer.is_done() {
                    return Ok(());
                }
                printer.print(&record).map_err(Failure::Output)?;
                *position = record.offset.0 + 1;
            }
        }
        *position = (*position).max(header.last_offset().0 + 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::Codec;
    use protocol::batch::{BatchBuilder, BatchOptions};
    use types::Offset;

    use super::*;

    fn batch(base: i64, codec: Codec, values: &[&str]) -> Vec<u8> {
        let options = BatchOptions { base_offset: Offset(base), codec, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        for value in values {
            builder.append(0, Some(b"k"), Some(value.as_bytes()), &[]);
        }
        builder.build().to_vec()
    }

    fn printer(left: Option<u64>) -> Printer<Vec<u8>> {
        Printer { out: Vec::new(), key_separator: None, left, is_closed: false }
    }

    #[test]
    fn records_are_printed_from_the_position_on() {
        let mut bytes = batch(10, Codec::Zstd, &["a", "b", "c"]);
        bytes.extend(batch(13, Codec::None, &["d"]));
        let cut_off = batch(14, Codec::Gzip, &["e", "f"]);
        bytes.extend(&cut_off[..cut_off.len() - 1]);
        let mut printer = printer(None);
        let mut position = 11;
        assert!(print_records(&mut printer, Bytes::from(bytes.clone()), &mut position).is_ok());
        assert_eq!((String::from_utf8_lossy(&printer.out).as_ref(), position), ("b\nc\nd\n", 14));
    }

    #[test]
    fn it_stops_between_two_records() {
        let mut printer = printer(Some(2));
        printer.key_separator = Some("=".to_owned());
        let mut position = 0;
        let bytes = Bytes::from(batch(0, Codec::Lz4, &["a", "b", "c"]));
        assert!(print_records(&mut printer, bytes, &mut position).is_ok());
        assert_eq!((String::from_utf8_lossy(&printer.out).as_ref(), position), ("k=a\nk=b\n", 2));
        assert!(printer.is_done());
    }

    #[test]
    fn damage_is_reported_and_not_printed() {
        let mut bytes = batch(0, Codec::None, &["a"]);
        let mut damaged = batch(1, Codec::None, &["b"]);
        *damaged.last_mut().expect("a batch has bytes") ^= 1;
        bytes.extend(damaged);
        let mut printer = printer(None);
        let mut position = 0;
        let outcome = print_records(&mut printer, Bytes::from(bytes), &mut position);
        assert!(matches!(outcome, Err(Failure::Batch(BatchError::CrcMismatch { .. }))));
        assert_eq!((printer.out.as_slice(), position), (&b"a\n"[..], 1));
    }
}
