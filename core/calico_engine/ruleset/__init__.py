"""The table-level compiler: Messages in, chains, rules and sets as data out.

Pure. One call for everything is `compile_world`; table dataplanes make the same pieces object by object:

    state.apply(batch) -> what changed
    compile_static, compile_policy, compile_profile, compile_workload, compile_workload_dispatch,
    resolve_host_endpoints, compile_host, compile_host_dispatch,
    compile_nat_outgoing, compile_floating_ips, compile_rpf_skip, compile_cidr_block, compile_sets
    -> chains by (layer, name), neutral
    lower, lower_chains, lower_rules -> what iptables can express
    reachable, stub_rules -> which chains to program, what stands in for a missing one
    verify, verify_chain -> what must hold before any of it goes to the kernel
    interpret -> what would become of a packet, and which rule says so
"""

from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.compile_dispatch import compile_host_dispatch, compile_workload_dispatch
from calico_engine.ruleset.compile_endpoint import compile_workload
from calico_engine.ruleset.compile_host import compile_host, resolve_host_endpoints
from calico_engine.ruleset.compile_nat import (
    compile_cidr_block,
    compile_floating_ips,
    compile_nat_outgoing,
)
from calico_engine.ruleset.compile_policy import compile_policy, compile_profile
from calico_engine.ruleset.compile_sets import compile_fixed_sets, compile_sets, find_tunnels, masquerades
from calico_engine.ruleset.compile_sources import compile_rpf_skip
from calico_engine.ruleset.compile_static import StaticRules, Tunnels, compile_static
from calico_engine.ruleset.digest import rule_hashes
from calico_engine.ruleset.interpret import Interpreter, Outcome, Packet, Path, Verdict, interpret
from calico_engine.ruleset.ir import Rule, Ruleset
from calico_engine.ruleset.lower import lower, lower_chains, lower_rules
from calico_engine.ruleset.marks import Marks, allocate_marks
from calico_engine.ruleset.references import reachable, referenced_chains, referenced_sets, stub_rules
from calico_engine.ruleset.state import DesiredState, Touched
from calico_engine.ruleset.verify import verify, verify_chain
from calico_engine.ruleset.world import compile_world, governing_workloads

__all__ = [
    "Chains",
    "DesiredState",
    "Interpreter",
    "Marks",
    "Outcome",
    "Packet",
    "Path",
    "Rule",
    "Ruleset",
    "StaticRules",
    "Touched",
    "Tunnels",
    "Verdict",
    "allocate_marks",
    "compile_cidr_block",
    "compile_fixed_sets",
    "compile_floating_ips",
    "compile_host",
    "compile_host_dispatch",
    "compile_nat_outgoing",
    "compile_policy",
    "compile_profile",
    "compile_rpf_skip",
    "compile_sets",
    "compile_static",
    "compile_workload",
    "compile_workload_dispatch",
    "compile_world",
    "find_tunnels",
    "governing_workloads",
    "interpret",
    "lower",
    "lower_chains",
    "lower_rules",
    "masquerades",
    "reachable",
    "referenced_chains",
    "referenced_sets",
    "resolve_host_endpoints",
    "rule_hashes",
    "stub_rules",
    "verify",
    "verify_chain",
]
