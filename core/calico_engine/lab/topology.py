"""Make and remove a lab's namespaces and links. Runs in the holder, whose own namespace is the fabric.

pod eth0 <-> caliXXX  node  eth0 <-> celab-1  fabric (bridge celab-br, gateway, outside world)
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from calico_engine.errors import KernelError
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.kernel.sysctl import write_sysctl
from calico_engine.lab.entering import NETNS_DIRECTORY, SYSTEM_PATH
from calico_engine.lab.plan import (
    PREFIX,
    LabPlan,
    NodePlan,
    PodPlan,
    gateway_for,
    namespace_name,
)

BRIDGE = f"{PREFIX}br"
#: What Calico's CNI plugin gives every host side of a pod's link, so that the pod's gateway never changes.
HOST_MAC = "ee:ee:ee:ee:ee:ee"
POD_GATEWAY_V4 = "169.254.1.1"
POD_GATEWAY_V6 = "fe80::ecee:eeff:feee:eeee"

_TIMEOUT_S = 30


def run_ip(*words: str) -> None:
    """Run iproute2's ip. Raises: KernelError."""
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}
    try:
        done = subprocess.run(
            ["ip", *words], text=True, capture_output=True, check=False, timeout=_TIMEOUT_S, env=environ
        )
    except FileNotFoundError as error:
        raise KernelError("ip", "no such program; install iproute2") from error
    if done.returncode != 0:
        raise KernelError(f"ip {' '.join(words)}", f"exit code {done.returncode}", stderr=done.stderr)


def run_batch(namespace: str, lines: Sequence[str]) -> None:
    """Run commands of ip in a namespace, by one process; "" is our own. Raises: KernelError."""
    place = ["-netns", namespace] if namespace else []
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}
    done = subprocess.run(
        ["ip", *place, "-batch", "-"],
        input="".join(f"{line}\n" for line in lines),
        text=True,
        capture_output=True,
        check=False,
        timeout=_TIMEOUT_S,
        env=environ,
    )
    if done.returncode != 0:
        raise KernelError(
            f"ip -netns {namespace or 'fabric'} -batch", done.stderr.strip(), line="; ".join(lines)
        )


def make_fabric(plan: LabPlan) -> None:
    """Make the bridge, with the nodes' gateway and the outside world's addresses. Raises: KernelError."""
    _set_parameters()
    lines = ["link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up"]
    lines += [f"address add {gateway} dev {BRIDGE}{_nodad(gateway)}" for gateway in plan.gateways]
    lines += [f"address add {address} dev lo{_nodad(address)}" for address in plan.outside]
    run_batch("", lines)


def make_node(node: NodePlan, gateways: Sequence[str]) -> None:
    """Make a node's namespace and its port on the fabric. Raises: KernelError."""
    namespace = namespace_name(node.name)
    _make_namespace(namespace)
    run_batch(
        "",
        [
            f"link add {node.port} type veth peer name eth0 netns {namespace}",
            f"link set {node.port} master {BRIDGE}",
            f"link set {node.port} up",
        ],
    )
    lines = ["link set lo up", "link set eth0 up"]
    lines += [f"address add {network} dev eth0{_nodad(network)}" for network in node.networks]
    lines += [f"route add default via {gateway_for(network, gateways)} dev eth0" for network in node.networks]
    run_batch(namespace, lines)


def make_pod(pod: PodPlan) -> None:
    """Make a pod's namespace and its link to its node, as Calico's CNI plugin does. Raises: KernelError."""
    namespace = namespace_name(pod.name)
    _make_namespace(namespace)
    mac = f" address {pod.mac}" if pod.mac else ""
    run_batch(
        namespace_name(pod.node),
        [
            f"link add {pod.interface} address {HOST_MAC} type veth peer name eth0{mac} netns {namespace}",
            f"link set {pod.interface} up",
        ],
    )
    lines = ["link set lo up", "link set eth0 up"]
    lines += [f"address add {network} dev eth0{_nodad(network)}" for network in pod.networks]
    if pod.address(4):
        lines.append(f"route add {POD_GATEWAY_V4} dev eth0 scope link")
        lines.append(f"route add default via {POD_GATEWAY_V4} dev eth0")
    if pod.address(6):
        lines.append(f"route add default via {POD_GATEWAY_V6} dev eth0")
    run_batch(namespace, lines)


def remove_pod(pod: PodPlan) -> None:
    """Remove a pod's link, then its namespace; no error when they are gone."""
    for words in (
        ("-netns", namespace_name(pod.node), "link", "del", pod.interface),
        ("netns", "del", namespace_name(pod.name)),
    ):
        try:
            run_ip(*words)
        except KernelError as error:
            if "Cannot find device" not in str(error) and "No such file" not in str(error):
                raise


def _make_namespace(name: str) -> None:
    run_ip("netns", "add", name)
    with NetworkNamespace.open(Path(NETNS_DIRECTORY) / name) as namespace:
        namespace.run(_set_parameters)


def _set_parameters() -> None:
    """Addresses are unique by plan, so nothing waits for duplicate address detection; the fabric forwards."""
    for name, value in (
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
    ):
        try:
            write_sysctl(name, value)
        except KernelError:
            # A kernel without IPv6: pods with such addresses fail later, by name.
            return


def forward_packets() -> None:
    """Make this namespace a router. Raises: KernelError."""
    write_sysctl("net/ipv4/ip_forward", "1")
    try:
        write_sysctl("net/ipv6/conf/all/forwarding", "1")
    except KernelError:
        return


def _nodad(network: str) -> str:
    return " nodad" if ":" in network else ""
