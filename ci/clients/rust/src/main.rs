//! rskafka: produce, fetch, offsets and topics. It has no consumer groups and no idempotent producer.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::{Record, RecordAndOffset};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything that must happen may take: a generous bound, not a measurement.
const SECONDS_MAX: u64 = 60;

fn equal<T: PartialEq + Debug>(actual: T, expected: T, what: &str) -> Result {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:.200?}, got {actual:.200?}").into())
}

fn record(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: DateTime<Utc>) -> Record {
    Record { key: key.map(Vec::from), value: value.map(Vec::from), headers: Default::default(), timestamp }
}

/// `count` records, one second apart.
fn numbered(count: i64, start: DateTime<Utc>) -> Vec<Record> {
    (0..count)
        .map(|n| {
            let value = format!("value-{n} {}", "abc".repeat(40));
            record(Some(format!("key-{n}").as_bytes()), Some(value.as_bytes()), start + TimeDelta::seconds(n))
        })
        .collect()
}

/// An hour ago, in whole milliseconds as the protocol has them.
fn hour_ago() -> DateTime<Utc> {
    let now = Utc::now() - TimeDelta::hours(1);
    DateTime::from_timestamp_millis(now.timestamp_millis()).expect("a time of today")
}

async fn create(client: &Client, topic: &str, partitions: i32) -> Result {
    let timeout_ms = SECONDS_MAX as i32 * 1000;
    Ok(client.controller_client()?.create_topic(topic, partitions, 1, timeout_ms).await?)
}

async fn partition(client: &Client, topic: &str, partition: i32) -> Result<PartitionClient> {
    Ok(client.partition_client(topic, partition, UnknownTopicHandling::Retry).await?)
}

/// Produces, checks that the offsets start at `first` without a gap, and reads the same records back.
async fn write_and_read(
    partition: &PartitionClient,
    records: Vec<Record>,
    compression: Compression,
) -> Result {
    let first = partition.get_offset(OffsetAt::Latest).await?;
    let offsets = partition.produce(records.clone(), compression).await?;
    let end = first + records.len() as i64;
    equal(offsets, (first..end).collect(), "offsets")?;
    equal(partition.get_offset(OffsetAt::Latest).await?, end, "end offset")?;
    let expected =
        (first..).zip(records).map(|(offset, record)| RecordAndOffset { record, offset }).collect();
    equal(read(partition, first, end).await?, expected, "records")
}

async fn read(partition: &PartitionClient, first: i64, end: i64) -> Result<Vec<RecordAndOffset>> {
    let mut records: Vec<RecordAndOffset> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(SECONDS_MAX);
    while records.last().map_or(first, |last| last.offset + 1) < end {
        if Instant::now() > deadline {
            return Err(format!("{} records after {SECONDS_MAX} s", records.len()).into());
        }
        let next = records.last().map_or(first, |last| last.offset + 1);
        let (more, watermark) = partition.fetch_records(next, 1..1_000_000, 500).await?;
        equal(watermark, end, "high watermark")?;
        records.extend(more.into_iter().filter(|found| found.offset >= next)); // a batch may start before `next`
    }
    Ok(records)
}

async fn admin(client: &Client, topic: &str) -> Result {
    create(client, topic, 3).await?;
    for index in 0..3 {
        write_and_read(
            &partition(client, topic, index).await?,
            numbered(2, hour_ago()),
            Compression::NoCompression,
        )
        .await?;
    }
    let listed = client.list_topics().await?.into_iter().find(|listed| listed.name == topic);
    let partitions = listed.ok_or("a created topic is not listed")?.partitions;
    equal(partitions, BTreeSet::from([0, 1, 2]), "partitions")?;
    client.controller_client()?.delete_topic(topic, SECONDS_MAX as i32 * 1000).await?;
    let deadline = Instant::now() + Duration::from_secs(SECONDS_MAX);
    while client.list_topics().await?.iter().any(|listed| listed.name == topic) {
        if Instant::now() > deadline {
            return Err("a deleted topic is still listed".into());
        }
    }
    Ok(())
}

async fn roundtrip(client: &Client, topic: &str) -> Result {
    create(client, topic, 2).await?;
    let start = hour_ago();
    let mut headers = record(Some(b"key"), Some(b"value"), start);
    headers.headers =
        [("a".into(), b"1".to_vec()), ("b".into(), vec![0, 255]), ("empty".into(), vec![])].into();
    let bytes: Vec<u8> = (0..=255).collect();
    let records = vec![
        headers,
        record(None, Some(b"no key"), start + TimeDelta::milliseconds(7)),
        record(Some(b"tombstone"), None, start + TimeDelta::milliseconds(1)),
        record(Some(b""), Some(b""), start),
        record(Some(&bytes), Some(&b"x".repeat(100_000)), start),
    ];
    for index in 0..2 {
        let partition = partition(client, topic, index).await?;
        write_and_read(&partition, records.clone(), Compression::NoCompression).await?;
        write_and_read(&partition, numbered(3, start), Compression::NoCompression).await?;
    }
    Ok(())
}

async fn codec(client: &Client, topic: &str, compression: Compression) -> Result {
    create(client, topic, 1).await?;
    let partition = partition(client, topic, 0).await?;
    write_and_read(&partition, numbered(500, hour_ago()), compression).await?;
    let middle = read(&partition, 321, 500).await?;
    equal(
        middle.iter().map(|found| found.offset).collect(),
        (321..500).collect::<Vec<_>>(),
        "offsets from 321 on",
    )
}

async fn offsets_for_times(client: &Client, topic: &str) -> Result {
    create(client, topic, 1).await?;
    let partition = partition(client, topic, 0).await?;
    let start = hour_ago();
    write_and_read(&partition, numbered(10, start), Compression::NoCompression).await?;
    for (after_ms, offset) in [(-5000, 0), (0, 0), (2500, 3), (9000, 9), (9001, -1)] {
        let time = start + TimeDelta::milliseconds(after_ms);
        let found = partition.get_offset(OffsetAt::Timestamp(time)).await?;
        equal(found, offset, &format!("offset at start + {after_ms} ms"))?;
    }
    Ok(())
}

async fn delete_records(client: &Client, topic: &str) -> Result {
    create(client, topic, 1).await?;
    let partition = partition(client, topic, 0).await?;
    write_and_read(&partition, numbered(10, hour_ago()), Compression::NoCompression).await?;
    partition.delete_records(4, SECONDS_MAX as i32 * 1000).await?;
    equal(partition.get_offset(OffsetAt::Earliest).await?, 4, "earliest offset")?;
    equal(read(&partition, 4, 10).await?.len(), 6, "records left")
}

/// Gives up on a scenario whose client retries for ever.
async fn bounded<T>(scenario: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(2 * SECONDS_MAX), scenario).await?
}

async fn connect(bootstrap: String) -> Result<Client> {
    Ok(ClientBuilder::new(vec![bootstrap]).build().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let client = bounded(connect(std::env::var("BOOTSTRAP")?)).await?;
    let run = format!("rskafka-{}", Utc::now().timestamp_micros());
    let mut failed = false;
    let mut report = |scenario: &str, outcome: Result| match outcome {
        Ok(()) => println!("ok rskafka {scenario}"),
        Err(error) => {
            failed = true;
            println!("FAIL rskafka {scenario}: {}", error.to_string().replace('\n', " "));
        }
    };
    report("admin", bounded(admin(&client, &format!("{run}-admin"))).await);
    report("roundtrip", bounded(roundtrip(&client, &format!("{run}-roundtrip"))).await);
    for (name, compression) in [
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        let topic = format!("{run}-{name}");
        report(&format!("codec-{name}"), bounded(codec(&client, &topic, compression)).await);
    }
    report("offsets-for-times", bounded(offsets_for_times(&client, &format!("{run}-times"))).await);
    report("delete-records", bounded(delete_records(&client, &format!("{run}-delete"))).await);
    std::process::exit(failed.into())
}
