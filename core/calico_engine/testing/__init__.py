"""Aids for tests of this project and of plugins: builders of resources that name only what matters."""

from calico_engine.testing.builders import (
    make_block,
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_host_endpoint,
    make_network_set,
    make_node,
    make_policy,
    make_pool,
    make_profile,
    make_rule,
    make_tier,
)

__all__ = [
    "make_block",
    "make_endpoint",
    "make_global_network_set",
    "make_global_policy",
    "make_host_endpoint",
    "make_network_set",
    "make_node",
    "make_policy",
    "make_pool",
    "make_profile",
    "make_rule",
    "make_tier",
]
