use clap::Parser;

use super::*;
use crate::{
    fake_broker::{FakeBroker, Faults},
    report::LoadKind,
};

fn run(broker: &FakeBroker, line: &str) -> Result<RunReport, BenchError> {
    let mut report = report(broker, line)?;
    assert_eq!(report.runs.len(), 1);
    Ok(report.runs.remove(0))
}

fn report(broker: &FakeBroker, line: &str) -> Result<Report, BenchError> {
    let timeout = if line.contains("--timeout") { "" } else { "--timeout 10" };
    let line = format!("chronik-bench {line} --bootstrap {} --no-floor {timeout}", broker.address);
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    cli.command.validate()?;
    measure(&cli.command, |_| {})
}

fn errors(report: &RunReport) -> Vec<(&str, u64)> {
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

#[test]
fn several_consumers_on_several_threads_read_everything_back_in_batches() {
    let broker = FakeBroker::start(Faults::default());
    let load = "--create-topic --partitions 5 --batch-records 4 --record-size 100 --connections 3 --consumers 4 \
                --threads 3 --duration 0.3 --warm-up 0.1";
    let open = run(&broker, &format!("produce --rate 4000 {load}")).unwrap();
    assert_eq!(errors(&open), []);
    assert_eq!(open.results.end_to_end.unwrap().count, 300, "one latency for each batch");
    assert_eq!(open.results.read_back_records, 1_600);
    let closed = run(&broker, &format!("produce --max {load}")).unwrap();
    assert_eq!(errors(&closed), []);
    assert_eq!(closed.results.end_to_end, None, "nothing is scheduled");
    assert!(closed.results.read_back_records >= closed.results.records);
}

#[test]
fn keys_choose_the_partitions() {
    let broker = FakeBroker::start(Faults::default());
    let load = "produce --create-topic --keep --partitions 4 --rate 1000 --duration 0.4 --warm-up 0 --record-size 30";
    assert_eq!(errors(&run(&broker, &format!("{load} --keyed --consumers 1")).unwrap()), []);
    let offsets = broker.next_offsets("chronik-bench");
    assert_eq!(offsets.iter().sum::<i64>(), 400);
    assert!(offsets.iter().all(|&offset| offset > 50) && offsets != [100; 4], "{offsets:?}");
}

#[test]
fn a_sweep_makes_a_run_and_a_topic_for_each_value() {
    let broker = FakeBroker::start(Faults::default());
    let sweep = "sweep --rate 1000 --duration 0.1 --warm-up 0";
    let report = report(&broker, &format!("{sweep} --over partitions --values 1,7")).unwrap();
    let runs: Vec<_> = report.runs.iter().map(|run| (run.name.as_str(), run.cluster.partitions)).collect();
    assert_eq!(runs, [("partitions 1", 1), ("partitions 7", 7)]);
    assert!(report.is_good());
    assert_eq!(broker.topics(), [""; 0]);
}

#[test]
fn a_search_ends_at_the_highest_rate_within_its_range() {
    let broker = FakeBroker::start(Faults::default());
    let search = "search --create-topic --from 100 --to 400 --p99-ms 10000 --duration 0.1 --warm-up 0";
    let report = report(&broker, search).unwrap();
    let names: Vec<_> = report.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["rate 100", "rate 200", "rate 400"]);
    assert_eq!(report.search.unwrap().records_per_second, Some(400.0));
}

#[test]
fn a_search_against_a_broker_that_refuses_finds_nothing() {
    let broker = FakeBroker::start(Faults { refuse_every: 2, ..Faults::default() });
    let report = report(&broker, "search --create-topic --from 100 --duration 0.1 --warm-up 0").unwrap();
    assert_eq!(report.runs.len(), 2, "tried twice");
    assert!(!report.is_good());
}

#[test]
fn a_load_whose_answers_take_too_long_is_given_up() {
    let broker = FakeBroker::start(Faults { hold_until_requests: usize::MAX, ..Faults::default() });
    let search = "search --create-topic --from 100 --p99-ms 1 --duration 100 --warm-up 0";
    let report = report(&broker, search).unwrap();
    assert!(
        report.runs.iter().all(|run| errors(run).iter().any(|(what, _)| what.contains("the rate is above")))
    );
}

#[test]
fn a_backlog_is_made_and_read_while_producing_goes_on() {
    let broker = FakeBroker::start(Faults::default());
    let report = report(
        &broker,
        "backlog --create-topic --partitions 3 --backlog-mib 2 --batch-records 16 --rate 1600 --duration 0.2 \
         --warm-up 0 --connections 2 --threads 2 --consumers 2",
    )
    .unwrap();
    let runs: Vec<_> = report.runs.iter().map(|run| (run.name.as_str(), errors(run))).collect();
    assert_eq!(
        runs,
        [("backlog: fill", vec![]), ("backlog: drain", vec![]), ("backlog: produce meanwhile", vec![])],
    );
    assert_eq!(report.runs[0].results.records, 2_048);
    assert!(report.runs[0].results.seconds < 60.0, "the time that it took, not the most that it may");
    assert!(report.runs[1].results.records >= 2_048);
    assert_eq!(report.runs[2].results.latency.unwrap().count, 20);
}

#[test]
fn workloads_make_topics_of_their_own() {
    let broker = FakeBroker::start(Faults::default());
    for name in [
        "1-topic-16-partitions-1kb",
        "keyed-1-topic-16-partitions-1kb",
        "retention-1-topic-16-partitions-1kb",
    ] {
        let run = run(&broker, &format!("workload {name} --rate 800 --duration 0.1 --warm-up 0")).unwrap();
        assert_eq!((run.name.as_str(), errors(&run)), (name, vec![]));
        assert_eq!(run.cluster.partitions, 16);
        assert_eq!(run.results.expired_records.is_some(), name.starts_with("retention"));
    }
    assert_eq!(broker.topics(), [""; 0]);
}

#[test]
fn a_process_is_watched_at_rest() {
    let broker = FakeBroker::start(Faults::default());
    let pid = std::process::id();
    let idle = format!("idle --create-topic --partitions 3 --duration 1.2 --warm-up 0 --broker-pid {pid}");
    let run = run(&broker, &idle).unwrap();
    assert_eq!((run.load, errors(&run)), (LoadKind::Idle, vec![]));
    assert!(run.broker.unwrap().process.rss_bytes > 0 && run.broker_samples.len() > 1);
}
