"""Brokers for measurements: one node of Chronik, clusters of three of Chronik and of Apache Kafka, on loopback."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from ports import free_ports

ROOT = pathlib.Path(__file__).resolve().parent.parent
READY_SECONDS_MAX = 90
STOP_SECONDS_MAX = 60
CLUSTER_ID = "Y2hyb25pay1jb21wYXJlIQ"  # any 16 bytes, as base64

# What kafka-server-start.sh gives the JVM.
KAFKA_JVM = (
    "-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 "
    "-XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true"
).split()

# Kafka's defaults but for what a cluster needs to be one, and for internal topics that fit three nodes.
KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{raft_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=3
auto.create.topics.enable=false
"""


def ports_of_nodes(count):
    """So many for each of three nodes."""
    found = free_ports(3 * count)
    return {node: found[(node - 1) * count : node * count] for node in (1, 2, 3)}


class Process:
    """A broker's process, from its start to a clean stop, with its data in a folder of its own."""

    def __init__(self, command, data, port, environment=None):
        self.data, self.port = data, port
        self.begun = time.monotonic()
        with open(data.with_suffix(".log"), "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )
        self.pid = self.process.pid

    def await_answer(self):
        """Milliseconds from the start to the first answer."""
        # ApiVersions v0: key 18, version 0, correlation id 1, null client id.
        request = bytes.fromhex("0000000a" + "0012" + "0000" + "00000001" + "ffff")
        while time.monotonic() - self.begun < READY_SECONDS_MAX:
            if self.process.poll() is not None:
                raise SystemExit(f"a broker ended with {self.process.returncode}: {self.data.with_suffix('.log')}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(request)
                    if connection.recv(4):
                        return (time.monotonic() - self.begun) * 1000
            except OSError:
                time.sleep(0.002)
        raise SystemExit(f"a broker does not answer: {self.data.with_suffix('.log')}")

    def stop(self):
        """Ends it and removes its data. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        shutil.rmtree(self.data, ignore_errors=True)
        return code


def fresh(folder, name):
    data = folder / name
    shutil.rmtree(data, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return data


def chronik(server, folder, name, node=1, ports=None, peers=(), settings=()):
    """One node of Chronik with its defaults; of a cluster on this machine where peers are given, as (node, raft port)."""
    port, metrics, raft_port = ports or free_ports(3)
    data = fresh(folder, name)
    command = [server, "--bind-addr", "127.0.0.1", "--kafka-port", port, "--metrics-port", metrics, "--node-id", node]
    command += ["--data-dir", data, "--log-level", "warn"]
    command += [part for setting in settings for part in ("--set", setting)]
    if peers:
        # The machine is shared.
        command.append("--no-pin")
        others = ",".join(f"{other}@127.0.0.1:{raft}" for other, raft in peers)
        command += ["raft-cluster", "--raft-addr", f"127.0.0.1:{raft_port}", "--peers", others, "--bootstrap"]
    return Process(command, data, port)


def chronik_cluster(server, folder, settings=()):
    ports = ports_of_nodes(3)
    rafts = [(node, ports[node][2]) for node in ports]
    return [
        chronik(server, folder, f"chronik-{node}", node, ports[node], [peer for peer in rafts if peer[0] != node], settings)
        for node in ports
    ]


def kafka_cluster(folder, settings=()):
    sys.path.insert(0, str(ROOT / "ci" / "clients"))
    sys.dont_write_bytecode = True
    import toolchain

    java = ["java", *KAFKA_JVM, "-cp", toolchain.kafka_tools()]
    ports = ports_of_nodes(2)
    voters = ",".join(f"{node}@127.0.0.1:{raft_port}" for node, (_, raft_port) in ports.items())
    nodes = []
    for node, (port, raft_port) in ports.items():
        data = fresh(folder, f"kafka-{node}")
        properties = data.with_suffix(".properties")
        values = {"node": node, "voters": voters, "port": port, "raft_port": raft_port, "data": data}
        properties.write_text(KAFKA_PROPERTIES.format(**values) + "".join(f"{setting}\n" for setting in settings))
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", CLUSTER_ID]
        toolchain.command(*java, *tool, "--config", properties)
        nodes.append((data, port, properties))
    return [Process([*java, "kafka.Kafka", properties], data, port) for data, port, properties in nodes]
