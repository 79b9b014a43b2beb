"""The prober's arithmetic and its servers, on loopback."""

import os
import socket

import pytest

from calico_engine.lab import prober
from calico_engine.lab.prober import Job, Probe, ProbeResult, Spot, run_job


def test_checksum_is_the_one_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")

    assert prober.checksum(data) == ~0xDDF2 & 0xFFFF


def test_open_refused_taken_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "enter_spot", lambda _name, _fabric: None)
    fabric = os.open("/proc/self/ns/net", os.O_RDONLY)
    with (
        socket.socket() as foreign,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
        socket.socket() as gone,
    ):
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        silent.bind(("127.0.0.1", 0))
        gone.bind(("127.0.0.1", 0))
        free = gone.getsockname()[1]
        gone.close()
        taken, deaf = foreign.getsockname()[1], silent.getsockname()[1]
        spot = Spot("b", ("127.0.0.1",), (("tcp", taken), ("udp", free)))
        probes = (
            Probe("a", "b", "127.0.0.1", "tcp", taken),  # served by somebody else, who says nothing
            Probe("a", "b", "127.0.0.1", "tcp", free),
            Probe("a", "b", "127.0.0.1", "udp", free),
            Probe("a", "c", "127.0.0.1", "udp", free),
            Probe("a", "b", "127.0.0.1", "udp", deaf),
        )

        verdicts = run_job(Job((spot,), probes, 0.3), fabric)
    os.close(fabric)

    assert [verdict.result for verdict in verdicts] == [
        ProbeResult.OPEN,
        ProbeResult.REFUSED,
        ProbeResult.OPEN,
        ProbeResult.WRONG,
        ProbeResult.DENIED,
    ]
