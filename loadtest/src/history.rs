//! The history of a run: what clients did and saw, one JSON line per operation, written when it ended.
//!
//! A time-out is `info`, never `fail`: what was asked for may have happened.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use crate::{clock::Clock, error::LoadtestError};

/// One operation of one process (a client, the fault injector, the run itself).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Who.
    pub process: String,
    /// When it began, in microseconds of the run's clock.
    pub start_us: u64,
    /// When its outcome was known.
    pub end_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What it was.
    #[serde(flatten)]
    pub operation: Operation,
    /// The error behind an outcome that is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// It may have happened, or may still.
    Info,
}

/// What a record holds: the producer's name and its sequence, unique in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value(pub String, pub u64);

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.to_owned(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.topic, self.partition)
    }
}

/// A record batch on one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSummary {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// The leader epoch that it was written in.
    pub leader_epoch: i32,
    /// The latest timestamp in it.
    pub timestamp_ms_max: i64,
    /// Its length with the header.
    pub bytes: u64,
    /// The producer's id; −1 for a plain one.
    pub producer_id: i64,
    /// Its epoch; −1 for a plain one.
    pub producer_epoch: i16,
    /// Sequence of the first record; −1 for a plain one.
    pub base_sequence: i32,
    /// CRC-32 of all its bytes, header and leader epoch included. (The batch's own checksum is a CRC-32C of a part.)
    pub checksum: u32,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Operation {
    /// The first line: what the run was and what is expected of it.
    Run(RunFacts),
    /// Declares a producer, before its first send.
    Producer {
        /// Whether its values stand at one offset at most, in order. A plain producer may reorder them when it retries,
        /// also with one request in flight per connection: a leader's successor is on another connection.
        idempotent: bool,
    },
    /// One record with acks=all.
    Send {
        /// Where to.
        #[serde(flatten)]
        at: TopicPartition,
        /// With the process, the record's value.
        sequence: u64,
        /// Where it was acknowledged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<i64>,
    },
    /// The end of a producer: how many records were still not acknowledged when it gave up waiting.
    Flush {
        /// Records without an outcome.
        left: u64,
    },
    /// A consumer begins to read a partition at an offset, by assignment.
    Assign {
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// The first offset wanted.
        offset: i64,
    },
    /// Records that a consumer was handed, in this order.
    Poll {
        /// From which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// Offsets and values.
        records: Vec<(i64, Value)>,
    },
    /// A consumer was told that the offset which it had reached by reading does not exist.
    Reset,
    /// A record whose value is not as any producer wrote it.
    Corrupt {
        /// Where it was read.
        #[serde(flatten)]
        at: TopicPartition,
        /// At which offset.
        offset: i64,
    },
    /// A group commits.
    Commit {
        /// The group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// The offset to go on from.
        offset: i64,
    },
    /// Where a group stands.
    Committed {
        /// The group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// The committed offset, if any.
        offset: Option<i64>,
    },
    /// What a member was given by a rebalance.
    Assigned {
        /// The group.
        group: String,
        /// The how manieth of the group.
        generation: i32,
        /// All that is now the member's.
        partitions: Vec<TopicPartition>,
    },
    /// Somebody who is no member tries to commit as one; `ok` when he was let.
    ForeignCommit {
        /// The group.
        group: String,
    },
    /// Where a partition's leader finds a time.
    TimeLookUp {
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// What was asked for.
        timestamp_ms: i64,
        /// The first record not before it, if any.
        offset: Option<i64>,
    },
    /// Where a partition's leader says that an epoch ends.
    EpochLookUp {
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// What was asked for.
        epoch: i32,
        /// The offset behind its last record.
        offset: i64,
    },
    /// CreateTopics.
    CreateTopic {
        /// Its name.
        topic: String,
        /// How many partitions.
        partitions: i32,
    },
    /// What a replica shows in its answer to a fetch.
    Watermarks {
        /// Which node.
        node: i32,
        /// The how manieth process of this node.
        incarnation: u64,
        /// Of the partition, as this node knew it.
        leader_epoch: i32,
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// First offset that can be read.
        log_start: i64,
        /// End of what read-committed readers see.
        last_stable: i64,
        /// End of what is committed.
        high_watermark: i64,
    },
    /// A fault, from its injection to its healing.
    Fault {
        /// What was done to whom.
        fault: String,
        /// The nodes that it befell.
        nodes: Vec<i32>,
        /// Whether writes must go on while it lasts, after an election.
        is_writable: bool,
        /// Whether it leaves a process behind that lives and does not know what the others decide meanwhile: until it
        /// learns better, it may answer with what was true before.
        leaves_behind: bool,
        /// How many times the p99 of quiet periods that of its time may be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slowdown_max: Option<f64>,
    },
    /// A time without faults, in which all replicas were caught up.
    Quiet,
    /// A topic that was produced to as soon as it was made. `ok` when no answer had an error.
    FreshTopic {
        /// Its name.
        topic: String,
        /// The node that made it.
        made_by: i32,
        /// The node that was asked where its partitions are.
        asked: i32,
        /// How long it had to be asked again until it knew all leaders.
        known_us: u64,
        /// What was not as it should be, one by one.
        errors: Vec<String>,
    },
    /// A broker process ended by itself.
    Crash {
        /// Which node.
        node: i32,
    },
    /// The time in which producers kept all load topics busy.
    Load,
    /// The topics that exist at the end.
    Topics {
        /// Their names.
        topics: Vec<String>,
    },
    /// Records that the last reader was handed, after everything healed.
    Drain {
        /// From which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// Offsets and values.
        records: Vec<(i64, Value)>,
    },
    /// How far the last reader came in a partition; `info` when it did not reach the end in time.
    Drained {
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// First offset.
        log_start: i64,
        /// End: the high watermark.
        end: i64,
    },
    /// The replicas that a partition should have.
    Replicas {
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// Nodes.
        nodes: Vec<i32>,
    },
    /// Batches as a replica returned them after everything healed.
    Replica {
        /// Which node.
        node: i32,
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// In the order of offsets.
        batches: Vec<BatchSummary>,
    },
    /// How far a replica was read; `info` when its end was not reached in time.
    ReplicaRead {
        /// Which node.
        node: i32,
        /// Which partition.
        #[serde(flatten)]
        at: TopicPartition,
        /// The first offset that this replica has.
        log_start: i64,
        /// The end that was reached.
        end: i64,
    },
    /// The last line: the run came to its end and everything was read back.
    End,
}

/// What a run was and what is expected of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The scenario's name.
    pub scenario: String,
    /// What the choices were drawn from.
    pub seed: u64,
    /// How many nodes.
    pub nodes: i32,
    /// Replicas of each partition.
    pub replication: i32,
    /// The topic that producers keep busy.
    pub load_topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// Within how long writes must resume.
    pub outage_ms_max: u64,
    /// Whether a producer may see an error.
    pub may_fail_sends: bool,
}

/// Writes a history. Shared by all threads of a run.
#[derive(Debug)]
pub struct Recorder {
    /// The run's clock.
    pub clock: Clock,
    path: PathBuf,
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    /// None once the history is finished: clients that still run then have nothing more to say.
    file: Option<BufWriter<File>>,
    /// The first failure; nothing is written after it, and `finish` reports it.
    failure: Option<std::io::Error>,
}

impl Recorder {
    /// Begins a history.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`].
    pub fn create(path: &Path, clock: Clock) -> Result<Recorder, LoadtestError> {
        let file =
            File::create(path).map_err(|source| LoadtestError::File { path: path.to_owned(), source })?;
        let sink = Mutex::new(Sink { file: Some(BufWriter::with_capacity(1 << 20, file)), failure: None });
        Ok(Recorder { clock, path: path.to_owned(), sink })
    }

    /// An operation that went well and ends now.
    pub fn ok(&self, process: &str, start_us: u64, operation: Operation) {
        self.record(process, start_us, Outcome::Ok, operation, None);
    }

    /// An operation that ends now.
    pub fn record(
        &self,
        process: &str,
        start_us: u64,
        outcome: Outcome,
        operation: Operation,
        error: Option<String>,
    ) {
        let end_us = self.clock.now_us();
        assert!(start_us <= end_us, "an operation ends after it began");
        self.write(&Line { process: process.to_owned(), start_us, end_us, outcome, operation, error });
    }

    /// An operation that an answer ends now; without one, nobody knows.
    pub fn answer<Answer, Why: std::fmt::Display>(
        &self,
        process: &str,
        start_us: u64,
        answer: Result<Answer, Why>,
        operation: Operation,
    ) {
        match answer {
            Ok(_) => self.ok(process, start_us, operation),
            Err(why) => self.record(process, start_us, Outcome::Info, operation, Some(why.to_string())),
        }
    }

    fn write(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).expect("a line has string keys only");
        text.push(b'\n');
        let mut sink = self.sink.lock().expect("no thread panics while it writes");
        if let Sink { file: Some(file), failure: failure @ None } = &mut *sink {
            *failure = file.write_all(&text).err();
        }
    }

    /// Ends the history and writes out what is buffered.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`], also for the first of earlier failures.
    pub fn finish(&self) -> Result<(), LoadtestError> {
        let mut sink = self.sink.lock().expect("no thread panics while it writes");
        let Some(mut file) = sink.file.take() else { return Ok(()) };
        let result = sink.failure.take().map_or_else(|| file.flush(), Err);
        result.map_err(|source| LoadtestError::File { path: self.path.clone(), source })
    }
}

/// Reads a history.
///
/// # Errors
///
/// [`LoadtestError::File`]; and for each line [`LoadtestError::Line`] or [`LoadtestError::File`].
pub fn read(path: &Path) -> Result<impl Iterator<Item = Result<Line, LoadtestError>>, LoadtestError> {
    let path = path.to_owned();
    let file = File::open(&path).map_err(|source| LoadtestError::File { path: path.clone(), source })?;
    let lines = BufReader::with_capacity(1 << 20, file).lines();
    Ok(lines.zip(1..).map(move |(text, number)| {
        let text = text.map_err(|source| LoadtestError::File { path: path.clone(), source })?;
        serde_json::from_str(&text).map_err(|source| LoadtestError::Line { number, source })
    }))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_line_is_flat_json_and_is_read_back() {
        let lines = [
            Line {
                process: "plain-1".to_owned(),
                start_us: 5,
                end_us: 9,
                outcome: Outcome::Ok,
                operation: Operation::Send {
                    at: TopicPartition::new("load", 2),
                    sequence: 7,
                    offset: Some(41),
                },
                error: None,
            },
            Line {
                process: "reader-0".to_owned(),
                start_us: 1,
                end_us: 2,
                outcome: Outcome::Info,
                operation: Operation::Poll {
                    at: TopicPartition::new("load", 0),
                    records: vec![(3, Value("plain-1".to_owned(), 7))],
                },
                error: Some("timed out".to_owned()),
            },
        ];
        let text = lines.each_ref().map(|line| serde_json::to_string(line).unwrap()).join("\n");
        expect![[r#"
            {"process":"plain-1","start_us":5,"end_us":9,"outcome":"ok","kind":"send","topic":"load","partition":2,"sequence":7,"offset":41}
            {"process":"reader-0","start_us":1,"end_us":2,"outcome":"info","kind":"poll","topic":"load","partition":0,"records":[[3,["plain-1",7]]],"error":"timed out"}"#]]
        .assert_eq(&text);
        for (line, text) in lines.iter().zip(text.lines()) {
            assert_eq!(&serde_json::from_str::<Line>(text).unwrap(), line);
        }
    }

    #[test]
    fn a_foreign_line_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        std::fs::write(
            &path,
            "{\"process\":\"run\",\"start_us\":0,\"end_us\":0,\"outcome\":\"ok\",\"kind\":\"end\"}\n{}\n",
        )
        .unwrap();
        let lines: Vec<_> = read(&path).unwrap().collect();
        assert!(matches!(lines[0], Ok(Line { operation: Operation::End, .. })));
        assert!(matches!(lines[1], Err(LoadtestError::Line { number: 2, .. })));
    }
}
