"""What this machine can do: which iptables speaks to the kernel, and which tools and features there are.

Features are probed by using them in a network namespace made for the purpose (needs root), so that the machine's own
is neither read nor changed. Source for the choice of iptables: felix/environment/feature_detect_linux.go.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

import msgspec

from calico_engine.errors import ConfigError, KernelUnsupportedError
from calico_engine.kernel.command import try_command
from calico_engine.plugin.protocols import Capability

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 20.0
_CLONE_NEWNET = 0x40000000
_NEEDS_ROOT = "cannot be tried without root"


def kernel_families() -> tuple[int, ...]:
    """Return the address families that this kernel has: 6 is not there without CONFIG_IPV6 or with ipv6.disable=1."""
    return (4, 6) if Path("/proc/sys/net/ipv6").is_dir() else (4,)


class ProbeStep(msgspec.Struct, frozen=True):
    """A program to run, and what it reads."""

    argv: tuple[str, ...]
    stdin: str = ""


def try_in_namespace(steps: Sequence[ProbeStep]) -> str:
    """Run programs in a network namespace made for them; return "" when all worked, else why one did not."""
    if os.geteuid() != 0:
        return _NEEDS_ROOT
    for step in steps:
        if shutil.which(step.argv[0]) is None:
            return f"{step.argv[0]} is not installed"
    # A namespace belongs to a thread, and programs inherit it from the thread that starts them.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe") as thread:
        return thread.submit(_run_in_new_namespace, steps).result()


def _run_in_new_namespace(steps: Sequence[ProbeStep]) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        return f"no network namespace to try it in: {os.strerror(ctypes.get_errno())}"
    for step in steps:
        try:
            done = subprocess.run(
                step.argv,
                input=step.stdin,
                text=True,
                capture_output=True,
                check=False,
                timeout=_PROBE_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"{step.argv[0]} did not end within {_PROBE_TIMEOUT_S:g} s"
        if done.returncode != 0:
            words = [line for line in done.stderr.splitlines() if line and "--help" not in line]
            return "; ".join(words) or f"{step.argv[0]} ended with exit code {done.returncode}"
    return ""


def probe_in_namespace(
    name: str, steps: Sequence[ProbeStep], *, needed_for: str, remedy: str, required: bool = True
) -> Capability:
    """Return whether programs work in a fresh network namespace, as a line of `calico-engine check`."""
    problem = try_in_namespace(steps)
    return Capability(
        name=name,
        ok=not problem,
        needed_for=needed_for,
        remedy="run it as root" if problem == _NEEDS_ROOT else remedy if problem else "",
        detail=problem,
        required=required,
    )


class IptablesVariant(StrEnum):
    LEGACY = "legacy"
    NFT = "nft"


_KUBERNETES_HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")


def iptables_program(family: int, variant: IptablesVariant, tool: str) -> str:
    """Return the program for a variant and tool ("save", "restore"), else the plain one that speaks this variant.

    Raises: KernelUnsupportedError when there is none.
    """
    stem = "ip6tables" if family == 6 else "iptables"
    for name in (f"{stem}-{variant}-{tool}", f"{stem}-{tool}"):
        if shutil.which(name):
            return name
    raise KernelUnsupportedError(f"{stem}-{variant}-{tool}", hint="install the package iptables")


def has_legacy_tables(family: int) -> bool:
    """Tell whether this namespace has any legacy table; asking iptables-legacy-save where there is none makes one."""
    try:
        return bool(
            Path(f"/proc/thread-self/net/ip{'6' if family == 6 else ''}_tables_names").read_text().strip()
        )
    except OSError:
        return False


async def _saved(family: int, variant: IptablesVariant, *arguments: str) -> str:
    if variant is IptablesVariant.LEGACY and not has_legacy_tables(family):
        return ""
    try:
        argv = [iptables_program(family, variant, "save"), *arguments]
        result = await try_command(argv, timeout_s=_PROBE_TIMEOUT_S)
    except KernelUnsupportedError:
        return ""
    return result.text


async def detect_iptables_variant(wanted: str = "auto", families: Sequence[int] = (4, 6)) -> IptablesVariant:
    """Return the iptables that the rest of this machine uses; `wanted` other than "auto" decides itself.

    Kubernetes' hint chains decide, else who has more rules; a tie is legacy's. Raises: ConfigError.
    """
    wanted = wanted.lower()
    if wanted != "auto":
        try:
            return IptablesVariant(wanted)
        except ValueError:
            raise ConfigError(
                f"iptables_backend is {wanted!r}", key="iptables_backend", hint="allowed: auto, legacy, nft"
            ) from None
    for variant in (IptablesVariant.NFT, IptablesVariant.LEGACY):
        for family in families:
            mangle = await _saved(family, variant, "-t", "mangle")
            if any(hint in mangle for hint in _KUBERNETES_HINTS):
                return variant
    counts = dict.fromkeys(IptablesVariant, 0)
    for variant in IptablesVariant:
        for family in families:
            counts[variant] += (await _saved(family, variant)).count("\n-A ")
    detected = IptablesVariant.LEGACY
    if counts[IptablesVariant.NFT] > counts[IptablesVariant.LEGACY] or not shutil.which(
        "iptables-legacy-restore"
    ):
        detected = IptablesVariant.NFT
    log.info("iptables variant: %s legacy_rules=%d nft_rules=%d", detected, *counts.values())
    return detected
