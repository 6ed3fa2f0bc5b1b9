"""Apache Kafka's own command-line tools: each is run as a user would, one process for each command.

KAFKA_TOOLS in the environment is the java command with the class path, DATA_DIR the broker's data, NODES how many brokers
there are (1 unless given).
"""

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from client import SECONDS_MAX, until
from scenarios import CODECS, equal, run_all

TOOLS = "org.apache.kafka.tools"
NODES = int(os.environ.get("NODES", "1"))
TOPICS = f"{TOOLS}.TopicCommand"
GROUPS = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
PRODUCER = f"{TOOLS}.ConsoleProducer"
CONSUMER = f"{TOOLS}.consumer.ConsoleConsumer"
REASSIGN = f"{TOOLS}.reassign.ReassignPartitionsCommand"
CONFIGS = "kafka.admin.ConfigCommand"


def run(main, *arguments, stdin="", bootstrap=True):
    """Runs the main class of one tool and returns its exit code and what it printed."""
    command = [*os.environ["KAFKA_TOOLS"].split(" "), main]
    if bootstrap:
        command += ["--bootstrap-server", os.environ["BOOTSTRAP"]]
    command += map(str, arguments)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=2 * SECONDS_MAX)
    return done.returncode, done.stdout, f"{main} {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"


def tool(main, *arguments, **options):
    """Runs one tool and returns what it printed; the exit code must be 0."""
    code, stdout, output = run(main, *arguments, **options)
    assert code == 0, f"exit code {code} of {output}"
    assert "ERROR" not in output and "Exception" not in output, output
    return stdout


def create(topic, partitions=1, *more):
    tool(TOPICS, "--create", "--topic", topic, "--partitions", partitions, *more)


def produce(topic, values, *more):
    tool(PRODUCER, "--topic", topic, "--request-required-acks", "all", *more, stdin="\n".join(values) + "\n")


def consume(topic, count, *more):
    """The lines of the console consumer, which ends at `count`, or fails after a long silence."""
    options = ["--topic", topic, "--max-messages", count, "--timeout-ms", SECONDS_MAX * 1000]
    return tool(CONSUMER, *options, *more).splitlines()


def values(count, first=0):
    return [f"value-{n}" for n in range(first, first + count)]


def offsets(topic, time):
    """{partition: offset} from kafka-get-offsets."""
    lines = tool(f"{TOOLS}.GetOffsetShell", "--topic", topic, "--time", time).split()
    return {int(partition): int(offset) for _, partition, offset in (line.split(":") for line in lines)}


def table(output):
    """The rows of a printed table as dictionaries."""
    lines = [line.split() for line in output.splitlines() if line.strip()]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def topics(topic):
    create(topic, 2, "--config", "retention.ms=7200000")
    assert topic in tool(TOPICS, "--list").split(), "a created topic is not listed"
    first, *rest = tool(TOPICS, "--describe", "--topic", topic).splitlines()
    replicas = f"ReplicationFactor: {min(NODES, 3)}"
    assert re.search(rf"PartitionCount: 2\b.*{replicas}\b.*retention\.ms=7200000", first), first
    equal([re.search(r"Partition: (\d+)", line)[1] for line in rest], ["0", "1"], "described partitions")
    tool(TOPICS, "--alter", "--topic", topic, "--partitions", 4)
    equal(offsets(topic, "latest"), {0: 0, 1: 0, 2: 0, 3: 0}, "partitions after --alter")
    tool(TOPICS, "--delete", "--topic", topic)
    until(lambda: topic not in tool(TOPICS, "--list").split())


def console(topic):
    """Headers, keys, null values: what the console producer sent is what the console consumer prints."""
    create(topic)
    lines = ["a:1,b:2|key-0|value-0", "a:1|key-1|value 1", "a:3|key-2|<null>", "<null>|key-3|value-3"]
    reader = ["parse.key=true", "parse.headers=true", "headers.delimiter=|", "key.separator=|", "null.marker=<null>"]
    since = int(time.time() * 1000)
    produce(topic, lines, *(word for item in reader for word in ("--reader-property", item)))
    printed = ["print.key", "print.offset", "print.partition", "print.headers", "print.timestamp"]
    formatter = [*(f"{item}=true" for item in printed), "key.separator=|", "headers.separator=,"]
    found = consume(topic, 4, "--from-beginning", *(w for item in formatter for w in ("--formatter-property", item)))
    timestamps = [int(line.split("|")[0].removeprefix("CreateTime:")) for line in found]
    assert all(since <= timestamp <= time.time() * 1000 for timestamp in timestamps), timestamps
    equal(
        [line.split("|", 1)[1] for line in found],
        [
            "Partition:0|Offset:0|a:1,b:2|key-0|value-0",
            "Partition:0|Offset:1|a:1|key-1|value 1",
            "Partition:0|Offset:2|a:3|key-2|null",
            "Partition:0|Offset:3|NO_HEADERS|key-3|value-3",
        ],
        "printed records",
    )
    equal(consume(topic, 2, "--partition", 0, "--offset", 1), ["value 1", "null"], "records from offset 1")


def configs(topic):
    create(topic)

    def command(*arguments):
        return tool(CONFIGS, "--entity-type", "topics", "--entity-name", topic, *arguments)

    command("--alter", "--add-config", "retention.ms=3600000,max.message.bytes=2000000")
    described = command("--describe")
    assert re.search(r"retention\.ms=3600000 .*DYNAMIC_TOPIC_CONFIG", described), described
    assert "max.message.bytes=2000000 " in described, described
    command("--alter", "--delete-config", "retention.ms")
    described = command("--describe")
    assert "retention.ms" not in described and "max.message.bytes=2000000 " in described, described
    assert re.search(r"segment\.bytes=\d+ .*DEFAULT_CONFIG", command("--describe", "--all")), "no defaults"


def consumer_groups(topic):
    create(topic)
    produce(topic, values(10))
    group = f"group-{topic}"
    equal(consume(topic, 4, "--from-beginning", "--group", group), values(4), "first four")
    assert group in tool(GROUPS, "--list").split(), "the group is not listed"

    def described():
        (row,) = table(tool(GROUPS, "--describe", "--group", group))
        return row["TOPIC"], row["PARTITION"], row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]

    equal(described(), (topic, "0", "4", "10", "6"), "offsets of the group")
    state = tool(GROUPS, "--describe", "--state", "--group", group)
    assert re.search(r"\bEmpty\s+0\b", state), state
    tool(GROUPS, "--reset-offsets", "--group", group, "--topic", topic, "--to-offset", 2, "--execute")
    equal(described(), (topic, "0", "2", "10", "8"), "offsets after the reset")
    equal(consume(topic, 8, "--group", group), values(8, 2), "records after the reset")
    tool(GROUPS, "--delete", "--group", group)
    assert group not in tool(GROUPS, "--list").split(), "a deleted group is still listed"


def get_offsets(topic):
    create(topic)
    produce(topic, values(5))
    equal(offsets(topic, "earliest"), {0: 0}, "earliest")
    equal(offsets(topic, "latest"), {0: 5}, "latest")
    equal(offsets(topic, int(time.time() * 1000) - 3_600_000), {0: 0}, "an hour ago")
    lines = consume(topic, 5, "--from-beginning", "--formatter-property", "print.timestamp=true")
    timestamps = [int(line.split("\t")[0].removeprefix("CreateTime:")) for line in lines]
    equal(offsets(topic, "max-timestamp"), {0: timestamps.index(max(timestamps))}, "max-timestamp")
    equal(offsets(topic, max(timestamps) + 1), {}, "after the last record")


def log_dirs(topic):
    create(topic, 2)
    produce(topic, values(5))
    output = tool(f"{TOOLS}.LogDirsCommand", "--describe", "--topic-list", topic)
    brokers = json.loads(output.splitlines()[-1])["brokers"]
    equal(len(brokers), NODES, "brokers with log folders")
    totals = []
    for broker in brokers:
        sizes = {
            partition["partition"]: partition["size"]
            for log_dir in broker["logDirs"]
            for partition in log_dir["partitions"]
        }
        equal(sorted(sizes), [f"{topic}-0", f"{topic}-1"], "partitions with a size")
        totals.append(sum(sizes.values()))
    # A follower may be a moment behind.
    assert max(totals) > 5 * len("value-0"), totals


def delete_records(topic):
    create(topic)
    produce(topic, values(10))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as wanted:
        json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 6}]}, wanted)
        wanted.flush()
        output = tool(f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file", wanted.name)
    assert re.search(rf"{topic}-0\s+low_watermark: 6\b", output), output
    equal(offsets(topic, "earliest"), {0: 6}, "earliest")
    equal(consume(topic, 4, "--from-beginning"), values(4, 6), "records left")


def producer_perf(topic):
    create(topic, 2)
    output = tool(
        f"{TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", 20_000, "--record-size", 200,
        "--throughput", -1, "--command-property", "acks=all", "compression.type=lz4",
    )  # fmt: skip
    assert "20000 records sent" in output, output
    equal(sum(offsets(topic, "latest").values()), 20_000, "records in the topic")


def segments(topic, partition):
    """The segment files of a partition; its folder is TOPIC-N or says so in `partition.metadata`."""
    for log in sorted(Path(os.environ["DATA_DIR"]).rglob("*.log")):
        metadata = log.parent / "partition.metadata"
        lines = metadata.read_text().splitlines() if metadata.exists() else []
        named = {f"topic: {topic}", f"partition: {partition}"} <= set(lines)
        if named or log.parent.name == f"{topic}-{partition}":
            yield log


def dump_log(topic):
    """kafka-dump-log finds in the broker's files the batches, intact, as the producers sent them."""
    create(topic)
    expected = []
    for codec in ("none", *CODECS):
        expected += [(str(n), codec, f"value-{n}") for n in range(len(expected), len(expected) + 5)]
        produce(topic, [value for _, _, value in expected[-5:]], "--compression-codec", codec)

    def dumped():
        found, codec = [], None
        for file in segments(topic, 0):
            options = ["--deep-iteration", "--print-data-log", "--files", file]
            for line in tool(f"{TOOLS}.DumpLogSegments", *options, bootstrap=False).splitlines():
                if batch := re.match(r"baseOffset: .* compresscodec: (\S+) crc: \d+ isvalid: (\S+)", line):
                    codec = batch[1]
                    equal(batch[2], "true", f"valid: {line}")
                    assert " magic: 2 " in line and not re.search(r" producerId: -1 ", line), line
                elif record := re.match(r"\| offset: (\d+) .* payload: (.*)", line):
                    found.append((record[1], codec, record[2]))
        return found

    # A broker may move acknowledged records from its journal into segment files a little later.
    until(lambda: len(dumped()) >= len(expected))
    equal(dumped(), expected, "records in the segments")


def json_file(content):
    """A file with this content, which lives as long as the object."""
    file = tempfile.NamedTemporaryFile("w", suffix=".json")
    json.dump(content, file)
    file.flush()
    return file


def placed(topic):
    """{partition: its replicas, the preferred leader first} and {partition: leader}."""
    replicas, leaders = {}, {}
    for line in tool(TOPICS, "--describe", "--topic", topic).splitlines()[1:]:
        partition, leader, nodes = re.search(r"Partition: (\d+)\s+Leader: (\S+)\s+Replicas: (\S+)", line).groups()
        replicas[int(partition)] = [int(node) for node in nodes.split(",")]
        leaders[int(partition)] = leader
    return replicas, leaders


def throttles(topic):
    """What is set of the configurations of --throttle: {broker's id, or topic: {name: value}}."""
    entities = [("brokers", node) for node in range(1, NODES + 1)] + [("topics", topic)]
    described = {name: tool(CONFIGS, "--entity-type", kind, "--entity-name", name, "--describe") for kind, name in entities}
    set_here = re.compile(r"^\s*(\w+\.replication\.throttled\.\w+)=(\S*)", re.MULTILINE)
    return {name: dict(set_here.findall(output)) for name, output in described.items()}


def reassign_to(topic, wanted):
    """Moves partitions ({partition: replicas}) and waits until kafka-reassign-partitions says that they have moved."""
    partitions = [{"topic": topic, "partition": p, "replicas": replicas} for p, replicas in wanted.items()]
    with json_file({"version": 1, "partitions": partitions}) as plan:
        started = tool(REASSIGN, "--reassignment-json-file", plan.name, "--execute")
        assert "Successfully started partition reassignment" in started, started

        def verified():
            output = tool(REASSIGN, "--reassignment-json-file", plan.name, "--verify")
            return len(re.findall(rf"Reassignment of partition {topic}-\d+ is completed", output)) == len(wanted)

        until(verified)


def reassignment(topic):
    """--generate, --execute, --verify, --list and --cancel; replicas grow from one to three and move, and no record is lost."""
    tool(TOPICS, "--create", "--topic", topic, "--replica-assignment", "1,1")
    produce(topic, values(50))
    with json_file({"version": 1, "topics": [{"topic": topic}]}) as named:
        generated = tool(REASSIGN, "--topics-to-move-json-file", named.name, "--broker-list", "1,2,3", "--generate")
    current, proposed = (json.loads(line) for line in generated.splitlines() if line.startswith("{"))
    equal([p["replicas"] for p in current["partitions"]], [[1], [1]], "current replicas")
    equal(len(proposed["partitions"]), 2, "proposed partitions")

    reassign_to(topic, {0: [2, 3, 1], 1: [3]})
    equal(placed(topic)[0], {0: [2, 3, 1], 1: [3]}, "replicas")
    equal(sorted(consume(topic, 50, "--from-beginning")), sorted(values(50)), "records after the moves")
    listed = tool(REASSIGN, "--list")
    assert "No partition reassignments found." in listed, listed

    partitions = [{"topic": topic, "partition": 0, "replicas": [1]}]
    with json_file({"version": 1, "partitions": partitions}) as plan:
        tool(REASSIGN, "--reassignment-json-file", plan.name, "--execute")
        # It may have moved by now, which the tool says too.
        cancelled = tool(REASSIGN, "--reassignment-json-file", plan.name, "--cancel")
    assert re.search("Successfully cancelled|None of the specified partition reassignments are active", cancelled)
    until(lambda: "No partition reassignments found." in tool(REASSIGN, "--list"))
    assert placed(topic)[0][0] in ([1], [2, 3, 1]), placed(topic)
    equal(sorted(consume(topic, 50, "--from-beginning")), sorted(values(50)), "records in the end")


def throttle(topic):
    """--throttle bounds a move, can be changed while it goes on, and is gone after --verify."""
    tool(TOPICS, "--create", "--topic", topic, "--replica-assignment", "1")
    tool(
        f"{TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", 4_000, "--record-size", 1_000,
        "--throughput", -1, "--command-property", "acks=all",
    )  # fmt: skip
    equal(throttles(topic), {1: {}, 2: {}, 3: {}, topic: {}}, "throttles before")
    partitions = [{"topic": topic, "partition": 0, "replicas": [2, 3]}]

    def rates(rate):
        return {f"{side}.replication.throttled.rate": str(rate) for side in ("leader", "follower")}

    with json_file({"version": 1, "partitions": partitions}) as plan:

        def reassign(*arguments):
            return tool(REASSIGN, "--reassignment-json-file", plan.name, *arguments)

        # A few batches come at once, and those after them when these are made up for.
        assert "The inter-broker throttle limit was set to 1 B/s" in reassign("--execute", "--throttle", 1)
        replicas = {"leader.replication.throttled.replicas": "0:1", "follower.replication.throttled.replicas": "0:2,0:3"}
        equal(throttles(topic), {1: rates(1), 2: rates(1), 3: rates(1), topic: replicas}, "throttles")
        verified = reassign("--verify")
        assert f"Reassignment of partition {topic}-0 is still in progress." in verified, verified
        reassign("--execute", "--additional", "--throttle", 1_000_000_000)
        equal(throttles(topic)[2], rates(1_000_000_000), "the other throttle")
        until(lambda: f"Reassignment of partition {topic}-0 is completed." in reassign("--verify"))
    equal(throttles(topic), {1: {}, 2: {}, 3: {}, topic: {}}, "throttles after --verify")
    equal(placed(topic)[0], {0: [2, 3]}, "replicas")
    equal(offsets(topic, "latest"), {0: 4_000}, "records after the move")


def leader_election(topic):
    """The preferred leader changes with the order of the replicas, and an election makes it lead."""
    tool(TOPICS, "--create", "--topic", topic, "--replica-assignment", "1:2:3")
    produce(topic, values(5))
    reassign_to(topic, {0: [3, 2, 1]})
    elect = ["--election-type", "preferred", "--topic", topic, "--partition", 0]
    elected = tool(f"{TOOLS}.LeaderElectionCommand", *elect)
    assert re.search("Successfully completed leader election|Valid replica already elected", elected), elected
    until(lambda: placed(topic)[1] == {0: "3"})
    equal(consume(topic, 5, "--from-beginning"), values(5), "records after the election")


def metadata_quorum(_):
    quorum = f"{TOOLS}.MetadataQuorumCommand"
    status = tool(quorum, "describe", "--status")
    leader = re.search(r"LeaderId:\s+(\d+)", status)[1]
    equal(len(set(re.findall(r'"id": (\d+)', status))), NODES, "voters")
    rows = table(tool(quorum, "describe", "--replication"))
    equal(len(rows), NODES, "replicas of the metadata")
    equal([row["NodeId"] for row in rows if row["Status"] == "Leader"], [leader], "the leader")
    assert all(int(row["LogEndOffset"]) > 0 for row in rows), rows


def unregister(_):
    """A broker that is none is not forgotten."""
    code, _, output = run(f"{TOOLS}.ClusterTool", "unregister", "--bootstrap-server", os.environ["BOOTSTRAP"], "--id", 99, bootstrap=False)
    assert code != 0 and "BrokerIdNotRegistered" in output, output


def main():
    scenarios = {
        "topics": topics,
        "console": console,
        "configs": configs,
        "consumer-groups": consumer_groups,
        "get-offsets": get_offsets,
        "log-dirs": log_dirs,
        "delete-records": delete_records,
        "producer-perf": producer_perf,
        "dump-log": dump_log,
        "metadata-quorum": metadata_quorum,
        "unregister": unregister,
    }
    if NODES >= 3:
        scenarios |= {"reassignment": reassignment, "throttle": throttle, "leader-election": leader_election}
    if "DATA_DIR" not in os.environ:
        del scenarios["dump-log"]
        print("skip kafka-tools dump-log: DATA_DIR does not tell where the broker's data is", flush=True)
    run_all("kafka-tools", scenarios)


if __name__ == "__main__":
    main()
