"""Measurements under the reference's metric names, printed in Prometheus' text format.

Own storage instead of prometheus_client's: that one appends `_total` to a counter's name, and existing dashboards ask
for the names as Felix has them. Thread-safe. Source of the names: docs reference/felix/prometheus.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from math import ceil

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

_QUANTILES = (0.5, 0.9, 0.99)
_WINDOW = 1024

HELP: dict[str, str] = {
    "felix_active_local_endpoints": "Endpoints of this node.",
    "felix_active_local_policies": "Policies that apply to an endpoint of this node.",
    "felix_active_local_selectors": "Selectors that active rules use.",
    "felix_calc_graph_output_events": "Messages the calculation graph has sent.",
    "felix_calc_graph_update_time_seconds": "Time the calculation graph took for one slice of updates, or for a flush.",
    "felix_calc_graph_updates_processed": "Datastore updates the calculation graph has taken in.",
    "felix_cluster_num_host_endpoints": "Host endpoints in the cluster.",
    "felix_cluster_num_hosts": "Nodes in the cluster.",
    "felix_cluster_num_policies": "Policies in the cluster.",
    "felix_cluster_num_profiles": "Profiles in the cluster.",
    "felix_cluster_num_tiers": "Tiers in the cluster.",
    "felix_cluster_num_workload_endpoints": "Workload endpoints in the cluster.",
    "felix_exec_time_micros": "Time external programs took, in microseconds.",
    "felix_int_dataplane_apply_time_seconds": "Time one plugin's apply took.",
    "felix_int_dataplane_failures": "Failures of dataplane and routing plugins; each is retried.",
    "felix_int_dataplane_initial_resync_time_seconds": "Time from the start to the first complete apply.",
    "felix_int_dataplane_messages": "Messages handed to dataplane and routing plugins.",
    "felix_int_dataplane_msg_batch_size": "Messages in one batch.",
    "felix_int_dataplane_addr_msg_batch_size": "Interfaces whose addresses changed, in one batch.",
    "felix_int_dataplane_iface_msg_batch_size": "Interface messages in one batch.",
    "felix_ipset_calls": "Calls of ipset, or of the kernel in its place.",
    "felix_ipset_errors": "Failed calls of ipset.",
    "felix_ipset_lines_executed": "Changes made to ipsets.",
    "felix_ipsets_calico": "Active ipsets of ours.",
    "felix_ipsets_total": "All ipsets in the kernel.",
    "felix_iptables_chains": "Active chains of ours.",
    "felix_iptables_lines_executed": "Rule changes made by iptables-restore.",
    "felix_iptables_restore_calls": "Calls of iptables-restore.",
    "felix_iptables_restore_errors": "Failed calls of iptables-restore.",
    "felix_iptables_rules": "Active rules of ours.",
    "felix_iptables_save_calls": "Calls of iptables-save.",
    "felix_iptables_save_errors": "Failed calls of iptables-save.",
    "felix_nft_calls": "Transactions sent to nftables.",
    "felix_nft_chains": "Active chains of ours in nftables.",
    "felix_nft_errors": "Failed transactions of nftables.",
    "felix_nft_list_calls": "Read-backs of our nftables tables.",
    "felix_nft_list_errors": "Failed read-backs of our nftables tables.",
    "felix_nft_rules": "Active rules of ours in nftables.",
    "felix_nft_sets": "Active sets and maps of ours in nftables.",
    "felix_log_errors": "Log records that could not be written.",
    "felix_resync_state": "The datastore's state: 0 waiting, 1 resync, 2 in sync.",
    "felix_resyncs_started": "Resyncs with the datastore.",
    "felix_route_table_list_seconds": "Time one listing of routes took.",
    "felix_route_table_num_ifaces": "Interfaces with routes of ours.",
    "felix_route_table_num_routes": "Active routes of ours.",
    "calico_engine_resources_rejected": "Resources treated as absent because they are wrong.",
    "calico_engine_plugin_up": "1 while the plugin's last apply succeeded.",
    "calico_engine_drift_detected": "Times somebody else changed our kernel objects.",
    "calico_engine_hook_failures": "Hooks and listeners that raised.",
}

# Present from the start, so that a dashboard shows 0 and not a gap.
_FROM_START = (
    "felix_calc_graph_output_events",
    "felix_calc_graph_updates_processed",
    "felix_int_dataplane_failures",
    "felix_int_dataplane_messages",
    "felix_ipset_calls",
    "felix_ipset_errors",
    "felix_ipset_lines_executed",
    "felix_iptables_lines_executed",
    "felix_iptables_restore_calls",
    "felix_iptables_restore_errors",
    "felix_iptables_save_calls",
    "felix_iptables_save_errors",
    "felix_log_errors",
    "felix_nft_calls",
    "felix_nft_errors",
    "felix_nft_list_calls",
    "felix_nft_list_errors",
    "felix_resyncs_started",
    "calico_engine_drift_detected",
)

Labels = tuple[tuple[str, str], ...]


class _Summary(msgspec.Struct):
    """Count and sum for ever, quantiles of the last observations."""

    count: int = 0
    total: float = 0.0
    recent: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_WINDOW))


class EngineMetrics:
    """A MetricSink that can print itself."""

    def __init__(self, *, process_metrics: bool = True) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = {name: {(): 0.0} for name in _FROM_START}
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._summaries: dict[str, dict[Labels, _Summary]] = {}
        self._process: CollectorRegistry | None = None
        if process_metrics:
            self._process = CollectorRegistry()
            ProcessCollector(registry=self._process)

    def count(self, name: str, value: float = 1.0, labels: Mapping[str, str] = {}) -> None:
        """Add to a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            series = self._counters.setdefault(name, {})
            series[key] = series.get(key, 0.0) + value

    def gauge(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None:
        """Set a gauge."""
        with self._lock:
            self._gauges.setdefault(name, {})[tuple(sorted(labels.items()))] = value

    def remove(self, name: str, labels: Mapping[str, str]) -> None:
        """Drop a gauge of what there is no more."""
        with self._lock:
            self._gauges.get(name, {}).pop(tuple(sorted(labels.items())), None)

    def observe(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None:
        """Add one observation to a summary."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            summary = self._summaries.setdefault(name, {}).setdefault(key, _Summary())
            summary.count += 1
            summary.total += value
            summary.recent.append(value)

    def value(self, name: str, labels: Mapping[str, str] = {}) -> float:
        """The present value of a counter or gauge; 0 when there is none."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            series = self._counters.get(name) or self._gauges.get(name) or {}
            return series.get(key, 0.0)

    def render(self) -> str:
        """Return everything in Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        with self._lock:
            for kind, family in (("counter", self._counters), ("gauge", self._gauges)):
                for name, series in sorted(family.items()):
                    lines += _head(name, kind)
                    lines += [_sample(name, labels, value) for labels, value in sorted(series.items())]
            for name, summaries in sorted(self._summaries.items()):
                lines += _head(name, "summary")
                for labels, summary in sorted(summaries.items()):
                    lines += _summary_lines(name, labels, summary)
        text = "\n".join(lines) + "\n"
        if self._process is not None:
            text += generate_latest(self._process).decode()
        return text


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} {HELP.get(name, name)}", f"# TYPE {name} {kind}"]


def _summary_lines(name: str, labels: Labels, summary: _Summary) -> list[str]:
    ordered = sorted(summary.recent)
    lines = [
        _sample(name, (*labels, ("quantile", f"{q:g}")), ordered[max(0, ceil(q * len(ordered)) - 1)])
        for q in _QUANTILES
        if ordered
    ]
    return [
        *lines,
        _sample(f"{name}_sum", labels, summary.total),
        _sample(f"{name}_count", labels, summary.count),
    ]


def _sample(name: str, labels: Labels, value: float) -> str:
    if not labels:
        return f"{name} {value:g}" if value == int(value) and abs(value) < 1e6 else f"{name} {float(value)!r}"
    inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    return f"{name}{{{inner}}} {float(value)!r}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
