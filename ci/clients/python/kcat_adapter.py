"""kcat: the program does all producing and consuming; it has no admin commands, confluent-kafka lends them."""

import glob
import json
import os
import queue
import signal
import subprocess
import threading
from dataclasses import replace

import confluent_adapter
from client import SECONDS_MAX, Client, Member, Record

ROOT = os.environ["KCAT_ROOT"]
LIBRARIES = glob.glob(f"{ROOT}/usr/lib/*-linux-gnu") + glob.glob(f"{ROOT}/lib/*-linux-gnu")
ENVIRONMENT = os.environ | {"LD_LIBRARY_PATH": ":".join(LIBRARIES)}
END = b"<end of record>"  # Between records, and between a key and its value.
MIDDLE = b"<end of key>"


def record_of(line):
    """One line of `kcat -J`. It leaves bytes as they are, valid UTF-8 or not; Latin-1 keeps them one to one."""
    found = json.loads(line.decode("latin-1"))
    headers = found.get("headers") or []
    return Record(
        found["partition"], found["offset"], found["ts"], encoded(found["key"]), encoded(found["payload"]),
        tuple((key, encoded(value)) for key, value in zip(headers[::2], headers[1::2])),
    )  # fmt: skip


def encoded(text):
    return None if text is None else text.encode("latin-1")


class Adapter(Client):
    sets_timestamps = False
    null_headers = False
    empty_bytes = False
    # librdkafka before 2.4 may begin where it began the first time (its issue 4637), with any broker.
    forgets_lost_partitions = False

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.other = confluent_adapter.Adapter(bootstrap)
        self.create_topic = self.other.create_topic
        self.delete_topic = self.other.delete_topic

    def command(self, *arguments):
        return [f"{ROOT}/usr/bin/kcat", "-b", self.bootstrap, *map(str, arguments)]

    def kcat(self, *arguments, stdin=b""):
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, env=ENVIRONMENT, timeout=SECONDS_MAX)
        assert done.returncode == 0, f"kcat {arguments}: {done.stderr.decode()}"
        return done.stdout

    def topics(self):
        return [topic["topic"] for topic in json.loads(self.kcat("-L", "-J"))["topics"]]

    def partition_count(self, topic):
        return len(json.loads(self.kcat("-L", "-J", "-t", topic))["topics"][0]["partitions"])

    def produce(self, topic, records, codec="none", idempotent=False):
        if any(record.timestamp for record in records):
            return self.other.produce(topic, records, codec, idempotent)
        partitions = sorted({record.partition for record in records})
        placed = []
        for partition in partitions:
            mine = [record for record in records if record.partition == partition]
            common = ["-P", "-t", topic, "-p", partition, "-z", codec, "-D", END.decode(), "-X", "acks=all"]
            common += ["-X", f"enable.idempotence={str(idempotent).lower()}"]
            if all(record.key and record.value and not record.headers for record in mine):
                together = END.join(record.key + MIDDLE + record.value for record in mine)
                self.kcat(*common, "-K", MIDDLE.decode(), stdin=together)
            else:
                for record in mine:
                    self.produce_one(common, record)
            first = self.query(topic, partition, -1) - len(mine)
            placed += [replace(record, offset=first + index) for index, record in enumerate(mine)]
        return placed

    def produce_one(self, common, record):
        arguments, line = self.command(*common), record.value or b""
        if record.key is not None:
            arguments += ["-K", MIDDLE]
            line = record.key + MIDDLE + line
        if record.value is None:
            arguments += ["-Z"]  # Sends an empty value as null; works only behind a key.
        for name, value in record.headers:
            arguments += ["-H", name.encode() + b"=" + value]
        subprocess.run(arguments, input=line, check=True, env=ENVIRONMENT, timeout=SECONDS_MAX)

    def query(self, topic, partition, timestamp):
        """The offset at a time; the end of the partition for -1."""
        return int(self.kcat("-Q", "-t", f"{topic}:{partition}:{timestamp}").rsplit(b" ", 1)[1])

    def offset_for_time(self, topic, partition, timestamp):
        found = self.query(topic, partition, timestamp)
        return None if found == -1 else found

    def read(self, topic, partition, offset, count):
        output = self.kcat("-C", "-t", topic, "-p", partition, "-o", offset, "-c", count, "-J", "-u")
        return [record_of(line) for line in output.splitlines()]

    def group(self, group, topic, *more):
        settings = ("auto.offset.reset=earliest", "heartbeat.interval.ms=500", "auto.commit.interval.ms=100")
        options = [word for setting in settings for word in ("-X", setting)]
        return self.command("-J", "-u", *options, *more, "-G", group, topic)

    def member(self, group, topic):
        return KcatMember(self.group(group, topic))

    def read_and_commit(self, group, topic, count):
        """kcat commits what it printed when it ends."""
        command = self.group(group, topic, "-c", count)
        done = subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT, timeout=SECONDS_MAX)
        return [record_of(line) for line in done.stdout.splitlines()]


class KcatMember(Member):
    """Committing is kcat's own affair: it commits by time and when partitions are taken away."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        self.records = queue.Queue()
        self.owned = set()
        threading.Thread(target=self.read_records, daemon=True).start()
        threading.Thread(target=self.read_assignments, daemon=True).start()

    def read_records(self):
        for line in self.process.stdout:
            self.records.put(record_of(line))

    def read_assignments(self):
        """Lines like `% Group NAME rebalanced (memberid ID): assigned: TOPIC [0], TOPIC [1]`."""
        for line in self.process.stderr:
            if b" assigned: " in line:
                self.owned = {int(place.split(b"]")[0]) for place in line.split(b" [")[1:]}
            elif b" revoked: " in line:
                self.owned = set()

    def poll(self):
        try:
            return [self.records.get(timeout=0.1)]
        except queue.Empty:
            return []

    def assignment(self):
        return self.owned

    def close(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(SECONDS_MAX) == 0, f"kcat ended with {self.process.returncode}"
