"""One broker process: started on free ports, ended by its process id only."""

import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from ports import free_ports

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
PORT_FREE_SECONDS_MAX = 60


class Failed(Exception):
    """What a scenario found. The message is printed behind FAIL."""


class Skipped(Exception):
    """What a scenario needs and this machine does not give."""


def missing(why):
    """Skips a scenario for what this machine lacks and could be given, and fails it where CI=true."""
    raise Failed(why) if os.environ.get("CI") == "true" else Skipped(why)


def check(condition, message):
    """Like assert, but stays when Python optimises."""
    if not condition:
        raise Failed(message)


def answers(port):
    """Whether the broker answers an ApiVersions request, version 0, with the same correlation id."""
    request = struct.pack(">hhih", 18, 0, 7, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(8)
    except OSError:
        return False
    return len(answer) == 8 and struct.unpack(">ii", answer)[1] == 7


class Server:
    """A data directory, and the process that works in it, which changes with each start."""

    def __init__(self, program, data, log, shards=2, settings=(), driver=False):
        self.program = str(program)
        self.data = Path(data)
        self.log = Path(log)
        self.shards = shards
        self.settings = list(settings)
        # A driver is a bare program with the arguments PORT DATA_DIR SHARDS, which does not know SIGTERM.
        self.driver = driver
        self.port, self.metrics_port = free_ports(2)
        self.process = None

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def arguments(self):
        if self.driver:
            return [self.program, str(self.port), str(self.data), str(self.shards)]
        return [
            self.program, "--bind-addr", "127.0.0.1", "--advertised-addr", "127.0.0.1",
            "--kafka-port", str(self.port), "--metrics-port", str(self.metrics_port),
            "--data-dir", str(self.data), "--no-pin", "--shards", str(self.shards),
            *(f"--set={setting}" for setting in self.settings), "standalone",
        ]  # fmt: skip

    def spawn(self):
        """Starts the process and does not wait for it to serve."""
        check(self.process is None, "the broker runs already")
        with self.log.open("a") as log:
            print(f"--- start with {self.shards} shards", file=log, flush=True)
            self.process = subprocess.Popen(
                self.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_ready(self):
        """Waits for the first answer; False when the process ends instead."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers(self.port):
            if self.process.poll() is not None:
                return False
            check(time.monotonic() < deadline, f"the broker did not answer within {START_SECONDS_MAX} s")
            time.sleep(0.02)
        return True

    def start(self):
        self.spawn()
        if not self.wait_ready():
            code = self.process.wait()
            self.process = None
            raise Failed(f"the broker ended at its start with code {code}: {self.last_line()}")
        return self

    def check_runs(self):
        code = self.process.poll()
        check(code is None, f"the broker ended by itself with code {code}: {self.last_line()}")

    def kill(self):
        """kill -9, which must find it running; returns when the process is gone and the port is free."""
        self.check_runs()
        self.process.kill()
        self.process.wait()
        self.process = None
        self.wait_port_free()

    def wait_port_free(self):
        """The kernel closes sockets that io_uring knows a little after the process is gone."""
        deadline = time.monotonic() + PORT_FREE_SECONDS_MAX
        while True:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind(("127.0.0.1", self.port))
                    return listener.listen(1)
                except OSError:
                    check(time.monotonic() < deadline, "the port of a killed broker stays in use")
            time.sleep(0.001)

    def stop(self):
        """SIGTERM, and the exit code."""
        self.check_runs()
        self.process.send_signal(signal.SIGKILL if self.driver else signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"the broker did not stop within {STOP_SECONDS_MAX} s of SIGTERM") from None
        finally:
            self.process = None
        return 0 if self.driver else code

    def end(self):
        """Ends what is left of the process, if anything, whatever happened before."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def memory_mib(self):
        """Resident memory."""
        return self.status("VmRSS") / 1024

    def memory_peak_mib(self):
        """The most resident memory since the start or the last `reset_memory_peak`."""
        return self.status("VmHWM") / 1024

    def status(self, name):
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1])
        # A zombie has no memory lines.
        self.process.wait()
        self.check_runs()
        raise Failed(f"the broker's {name} cannot be read")

    def reset_memory_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def last_line(self):
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-600:] if lines else "(no output)"
