//! A segment goes while fetches read from it.

use std::cell::RefCell;
use std::rc::Rc;

use protocol::frame::{Request, Response};
use protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequestData, DeleteRecordsTopic,
};
use protocol::messages::fetch_request::{FetchPartition, FetchRequestData, FetchTopic};
use protocol::messages::{ErrorCode, kafka_string};
use sim::actor::Answer;

use crate::script::{Ask, Question, ask_all, begin_to_ask, create_topic, produce, quiet_world};

/// Clients that fetch at once: the removal comes between their look at the index and their read.
const READERS: usize = 30;

/// A record takes most of a segment.
const RECORD_BYTES: usize = 700_000;

/// Reads the first record, and notes how that went.
fn fetch(outcomes: &Rc<RefCell<Vec<ErrorCode>>>) -> Ask {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic =
        FetchTopic { topic: kafka_string("topic"), partitions: vec![partition], ..Default::default() };
    let request = FetchRequestData { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() };
    let outcomes = Rc::clone(outcomes);
    let note = move |answer: &Answer| {
        let Answer::Fetch(response) = answer else { panic!("another answer: {answer:?}") };
        outcomes.borrow_mut().push(ErrorCode::from(response.responses[0].partitions[0].error_code));
        true
    };
    Ask { version: 4, question: Question::Any(Request::Fetch(request)), look: Box::new(note) }
}

fn delete_first_two() -> Ask {
    let partition = DeleteRecordsPartition { offset: 2, ..Default::default() };
    let topic =
        DeleteRecordsTopic { name: kafka_string("topic"), partitions: vec![partition], ..Default::default() };
    let request = DeleteRecordsRequestData { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    Ask::new(1, Request::DeleteRecords(request), |response| match response {
        Response::DeleteRecords(response) => response.topics[0].partitions[0].error_code == 0,
        other => panic!("another response: {other:?}"),
    })
}

#[test]
fn readers_of_a_segment_that_goes_are_told_that_its_offsets_are_gone() {
    let mut world = quiet_world(20_000);
    let configs = [("segment.bytes", "1048576"), ("max.message.bytes", "1000000")];
    ask_all(
        &mut world,
        [create_topic(1, &configs)].into_iter().chain((0..3).map(|_| produce(0, RECORD_BYTES))),
    );
    // Batches go to segments after a while, and a restart empties the memory that readers are served from.
    world.run_for_us(60_000_000);
    world.restart();
    let outcomes = Rc::default();
    ask_all(&mut world, [fetch(&outcomes)]);
    assert_eq!(outcomes.take(), [ErrorCode::None]);
    (0..READERS).for_each(|_| begin_to_ask(&mut world, [fetch(&outcomes)]));
    ask_all(&mut world, [delete_first_two()]);
    let outcomes = outcomes.take();
    assert_eq!(outcomes.len(), READERS);
    let is_expected = |code: &ErrorCode| matches!(code, ErrorCode::None | ErrorCode::OffsetOutOfRange);
    assert!(outcomes.iter().all(is_expected), "{outcomes:?}");
    assert!(
        outcomes.contains(&ErrorCode::OffsetOutOfRange),
        "the segment was removed before all had read it"
    );
}
