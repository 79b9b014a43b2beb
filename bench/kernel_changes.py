"""Print a line each time this network namespace's kernel objects change: CLOCK_MONOTONIC in ns, and what.

    python -m bench.kernel_changes set NAME MEMBER     "<ns> present" or "<ns> absent", at start and at each change
    python -m bench.kernel_changes tables              "<ns> ready", then "<ns> changed" at each change of a rule

A set is asked for the one member over netlink every half millisecond. Of the tables of iptables-nft the kernel
itself tells; of legacy ones it does not.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

_POLL_S = 0.0005
_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1


def say(word: str) -> None:
    os.write(1, f"{time.monotonic_ns()} {word}\n".encode())


def watch_set(name: str, member: str) -> None:
    from pyroute2 import IPSet
    from pyroute2.netlink.exceptions import NetlinkError

    # A set that is not there yet holds nothing.
    def present(sets: IPSet) -> bool:
        try:
            return bool(sets.test(name, member, etype="net"))
        except NetlinkError:
            return False

    with IPSet() as sets:
        before = present(sets)
        say("present" if before else "absent")
        while True:
            time.sleep(_POLL_S)
            now = present(sets)
            if now != before:
                say("present" if now else "absent")
                before = now


def watch_tables() -> None:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    events.bind((0, 0))
    events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
    say("ready")
    while True:
        select.select([events], [], [])
        events.recv(1 << 18)
        say("changed")


if __name__ == "__main__":
    if sys.argv[1] == "set":
        watch_set(*sys.argv[2:4])
    else:
        watch_tables()
