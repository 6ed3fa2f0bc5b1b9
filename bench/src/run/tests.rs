use clap::Parser;

use super::*;
use crate::fake_broker::{FakeBroker, Faults};

fn run(broker: &FakeBroker, line: &str) -> Result<Report, BenchError> {
    let timeout = if line.contains("--timeout") { "" } else { "--timeout 10" };
    let line = format!("chronik-bench {line} --bootstrap {} --no-floor {timeout}", broker.address);
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    cli.command.validate()?;
    measure(&cli.command)
}

fn errors(report: &Report) -> Vec<(&str, u64)> {
    report.errors.iter().map(|(what, &count)| (what.as_str(), count)).collect()
}

#[test]
fn everything_scheduled_is_sent_and_measured() {
    let broker = FakeBroker::start(Faults::default());
    let report = run(
        &broker,
        "produce --create-topic --partitions 3 --keep --rate 4000 --batch-records 4 --record-size 100 \
         --connections 2 --threads 2 --duration 0.3 --warm-up 0.1",
    )
    .unwrap();
    assert_eq!(errors(&report), []);
    assert_eq!(report.load, LoadKind::Open);
    assert_eq!(report.results.scheduled_records_per_second, Some(4_000.0));
    assert_eq!(report.results.latency.unwrap().count, 300, "1,000 requests/s for 0.3 s");
    let next_offsets = broker.next_offsets("chronik-bench");
    assert_eq!(next_offsets.iter().sum::<i64>(), 1_600, "the warm-up too");
    assert!(next_offsets.iter().all(|offset| (500..=568).contains(offset)), "{next_offsets:?}");
}

#[test]
fn open_load_goes_on_while_the_broker_stalls_and_the_stall_counts() {
    // The first answer comes when 200 requests, 0.2 s of load, were sent. A client that waited would hang.
    let broker = FakeBroker::start(Faults { hold_until_requests: 200, ..Faults::default() });
    let report =
        run(&broker, "produce --create-topic --rate 1000 --record-size 10 --duration 0.4 --warm-up 0")
            .unwrap();
    assert_eq!(errors(&report), []);
    let latency = report.results.latency.unwrap();
    assert_eq!(latency.count, 400);
    assert!(latency.max_ns >= 199_000_000, "{latency:?}");
    // Held up were 200, evenly by 0 to 199 ms.
    assert!(latency.p90_ns >= 140_000_000, "{latency:?}");
    let lateness = report.results.lateness.unwrap();
    assert!(lateness.p50_ns < 50_000_000, "the schedule was kept: {lateness:?}");
}

#[test]
fn closed_load_keeps_requests_in_flight() {
    // The first answer comes when five requests are outstanding on the connection.
    let broker = FakeBroker::start(Faults { hold_until_requests: 5, ..Faults::default() });
    let report = run(
        &broker,
        "produce --create-topic --partitions 2 --max --in-flight 5 --record-size 1KiB --batch-records 8 \
         --duration 0.2 --warm-up 0",
    )
    .unwrap();
    assert_eq!(errors(&report), []);
    assert_eq!(report.load, LoadKind::Closed);
    assert_eq!(report.ratios, None);
    assert!(report.results.records > 100, "{:?}", report.results);
    assert_eq!(report.results.value_bytes, Some(report.results.records * 1024));
}

#[test]
fn requests_without_acknowledgement_count_when_sent() {
    let broker = FakeBroker::start(Faults::default());
    for pace in ["--rate 500", "--max"] {
        let report = run(
            &broker,
            &format!("produce --create-topic {pace} --acks 0 --record-size 50 --duration 0.2 --warm-up 0"),
        )
        .unwrap();
        assert_eq!(errors(&report), []);
        assert!(report.results.records >= 99, "{:?}", report.results);
    }
}

#[test]
fn topics_are_deleted_unless_they_are_kept() {
    let broker = FakeBroker::start(Faults::default());
    let produce = "produce --rate 100 --duration 0.05 --warm-up 0 --create-topic";
    run(&broker, &format!("{produce} --topic a --topic b")).unwrap();
    assert_eq!(broker.topics(), [""; 0]);
    run(&broker, &format!("{produce} --topic kept --keep")).unwrap();
    assert_eq!(broker.topics(), ["kept"]);
    assert!(matches!(run(&broker, &format!("{produce} --topic kept")), Err(BenchError::Refused { .. })));
    assert_eq!(broker.topics(), ["kept"], "what was there before is not deleted");
    let missing = run(&broker, "produce --rate 100 --topic missing");
    assert_eq!(missing.unwrap_err().to_string(), "topic missing: UNKNOWN_TOPIC_OR_PARTITION");
    let too_few = run(&broker, "produce --rate 100 --topic kept --partitions 2");
    assert_eq!(too_few.unwrap_err().to_string(), "topic kept has 1 partitions");
}

#[test]
fn the_load_waits_for_leaders_of_new_topics_only() {
    let broker = FakeBroker::start(Faults { new_leader_refusals: 3, ..Faults::default() });
    let produce = "produce --create-topic --keep --rate 1000 --duration 0.05 --warm-up 0";
    assert_eq!(errors(&run(&broker, produce).unwrap()), []);
    let broker = FakeBroker::start(Faults { new_leader_refusals: 1_000, ..Faults::default() });
    assert!(run(&broker, &format!("{produce} --timeout 1")).is_err());
    assert_eq!(
        run(&broker, "consume").unwrap_err().to_string(),
        "ListOffsets chronik-bench-0: NOT_LEADER_OR_FOLLOWER",
    );
}

#[test]
fn what_was_produced_is_consumed_as_often_as_asked() {
    let broker = FakeBroker::start(Faults::default());
    run(
        &broker,
        "produce --create-topic --keep --partitions 5 --rate 20000 --batch-records 20 --record-size 700 \
         --duration 0.2 --warm-up 0",
    )
    .unwrap();
    assert_eq!(broker.next_offsets("chronik-bench").iter().sum::<i64>(), 4_000);
    for options in ["", "--connections 3 --threads 2", "--passes 3", "--partition-max-bytes 20000"] {
        let report = run(&broker, &format!("consume {options}")).unwrap();
        assert_eq!(errors(&report), []);
        let passes = if options.contains("passes") { 3 } else { 1 };
        assert_eq!(report.results.records, passes * 4_000, "{options}");
        assert!(report.results.batch_bytes > passes * 4_000 * 700, "{options}");
        assert_eq!(report.load, LoadKind::Drain);
    }
}

#[test]
fn an_empty_topic_has_nothing_to_consume() {
    let broker = FakeBroker::start(Faults { refuse_every: 1, ..Faults::default() });
    run(&broker, "produce --create-topic --keep --rate 100 --duration 0.05 --warm-up 0").unwrap();
    assert!(matches!(run(&broker, "consume"), Err(BenchError::Options(_))));
}

#[test]
fn records_are_read_back_with_their_own_time() {
    let broker = FakeBroker::start(Faults::default());
    // What another run wrote is not read.
    run(&broker, "latency --create-topic --keep --partitions 4 --rate 400 --duration 0.1 --warm-up 0")
        .unwrap();
    let report = run(&broker, "latency --rate 400 --duration 0.3 --warm-up 0.1").unwrap();
    assert_eq!(errors(&report), []);
    let (latency, end_to_end) = (report.results.latency.unwrap(), report.results.end_to_end.unwrap());
    assert_eq!((latency.count, end_to_end.count), (120, 120));
    assert!(end_to_end.max_ns < 10_000_000_000);
    assert_eq!(broker.next_offsets("chronik-bench"), [50; 4]);
    let produce_only = run(&broker, "latency --rate 400 --duration 0.1 --warm-up 0 --no-consume").unwrap();
    assert_eq!(produce_only.results.end_to_end, None);
}

#[test]
fn every_refusal_is_counted_and_none_is_retried() {
    let broker = FakeBroker::start(Faults { refuse_every: 10, ..Faults::default() });
    let report =
        run(&broker, "produce --create-topic --keep --rate 1000 --record-size 10 --duration 0.2 --warm-up 0")
            .unwrap();
    assert_eq!(errors(&report), [("Produce NOT_ENOUGH_REPLICAS", 20)]);
    assert_eq!(report.results.latency.unwrap().count, 180);
    assert_eq!(broker.next_offsets("chronik-bench"), [180]);
}

#[test]
fn a_broken_connection_ends_the_run_with_what_is_unanswered() {
    let broker = FakeBroker::start(Faults { close_at: 50, hold_until_requests: 1_000, ..Faults::default() });
    let report =
        run(&broker, "produce --create-topic --keep --rate 1000 --record-size 10 --duration 0.2 --warm-up 0")
            .unwrap();
    let errors = errors(&report);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0].0, "Produce unanswered");
    assert!(errors[0].1 >= 50);
    assert!(errors[1].0.contains("broke"), "{errors:?}");
}

#[test]
fn a_run_of_closed_load_without_answers_gives_up_in_time() {
    let broker = FakeBroker::start(Faults { hold_until_requests: usize::MAX, ..Faults::default() });
    let report =
        run(&broker, "produce --create-topic --max --in-flight 4 --timeout 1 --duration 0.1 --warm-up 0")
            .unwrap();
    assert_eq!(errors(&report), [("Produce unanswered", 4)]);
    assert_eq!(report.results.latency, None);
}

#[test]
fn a_rate_that_nobody_can_take_ends_the_run() {
    let broker = FakeBroker::start(Faults { hold_until_requests: usize::MAX, ..Faults::default() });
    let report = run(
        &broker,
        "produce --create-topic --rate 1e9 --record-size 1 --duration 5 --warm-up 0 --partitions 1",
    )
    .unwrap();
    let errors = errors(&report);
    assert!(errors.iter().any(|(what, _)| what.contains("the rate is above")), "{errors:?}");
    assert!(errors.contains(&("Produce unanswered", 1_000_000)), "{errors:?}");
}
