//! An administrator who creates topics and produces to each at once.

use std::{sync::Arc, time::Duration};

use futures_lite::future::block_on;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
};

use super::{
    Shared, client_error,
    producer::{CountingProducer, wait},
};
use crate::{
    error::LoadtestError,
    history::{Operation, Outcome, TopicPartition},
};

const PAUSE: Duration = Duration::from_secs(3);
/// A long run does not fill the machine with topics.
const TOPICS_MAX: u32 = 100;
const RECORDS_PER_TOPIC: usize = 3;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Creates topics until the run stops.
pub fn run(shared: &Arc<Shared>) -> Result<(), LoadtestError> {
    let mut config = shared.client();
    if !shared.plan.has_default_retries {
        config.set("request.timeout.ms", "4000");
    }
    let mut producer = CountingProducer::create(shared, "admin-producer", true, &mut config)?;
    for number in 0..TOPICS_MAX {
        wait(shared, PAUSE);
        if shared.is_stopping() {
            break;
        }
        let topic = format!("created-{number}");
        if create_topic(shared, "admin", &topic, 2)? == Outcome::Ok {
            for record in 0..RECORDS_PER_TOPIC {
                producer.send(&TopicPartition::new(&topic, (record % 2) as i32), 100)?;
            }
        }
        producer.poll(Duration::from_millis(10));
    }
    producer.finish();
    Ok(())
}

/// CreateTopics, once.
///
/// # Errors
///
/// [`LoadtestError::Client`] when the request cannot even be made.
pub fn create_topic(
    shared: &Shared,
    process: &str,
    topic: &str,
    partitions: i32,
) -> Result<Outcome, LoadtestError> {
    let client: AdminClient<DefaultClientContext> =
        shared.client().create().map_err(client_error("creating an administrator"))?;
    let replication = TopicReplication::Fixed(shared.plan.replication);
    let options =
        AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
    let start_us = shared.recorder.clock.now_us();
    let answer = block_on(client.create_topics([&NewTopic::new(topic, partitions, replication)], &options));
    let (outcome, error) = match answer.as_deref() {
        Ok([Ok(_)]) => (Outcome::Ok, None),
        Ok([Err((_, code))]) => (outcome_of(*code), Some(format!("{code:?}"))),
        Ok(results) => (Outcome::Info, Some(format!("{} results for one topic", results.len()))),
        Err(error) => (Outcome::Info, Some(error.to_string())),
    };
    let operation = Operation::CreateTopic { topic: topic.to_owned(), partitions };
    shared.recorder.record(process, start_us, outcome, operation, error);
    Ok(outcome)
}

fn outcome_of(code: RDKafkaErrorCode) -> Outcome {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor
        | RDKafkaErrorCode::InvalidPartitions
        | RDKafkaErrorCode::PolicyViolation => Outcome::Fail,
        // It may exist: after a retry by the client library, or later.
        _ => Outcome::Info,
    }
}
