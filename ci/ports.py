"""Ports for servers of tests."""

import pathlib
import random
import socket


def free_ports(count):
    """Different ports below those that connections take, so that they are still free when a killed broker comes back."""
    first_ephemeral = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    lowest = min(10_000, first_ephemeral - 2_000)
    probes = {}
    try:
        while len(probes) < count:
            port = random.randrange(lowest, first_ephemeral)
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
                probes[port] = probe
            except OSError:
                probe.close()
        return list(probes)
    finally:
        for probe in probes.values():
            probe.close()
