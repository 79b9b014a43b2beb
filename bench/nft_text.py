"""A node's endpoints and policies for the nft command: what the peers load, and bench/floor/nft_floor.c as well.

The native layout that today's systems use: a chain per policy and direction and per endpoint and direction, verdict
maps for dispatch, named sets, a counter and a comment with every rule. No anonymous sets, which would be dearer.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.world import SHARED_MEMBERS, SHARED_SETS, addresses, interface, policy_name

TABLE = "bench"
#: Rules an endpoint brings along.
RULES = 30
_ACCEPT, _PASS, _ALL = 0x10000, 0x20000, 0xFFFFFFFF


def load_text(endpoints: int) -> str:
    """Return the whole table."""
    lines = [f"add table ip {TABLE}"]
    for number in range(SHARED_SETS):
        members = addresses(SHARED_MEMBERS, 10 << 24 | 100 << 16 | number << 8)
        lines.append(
            f"add set ip {TABLE} shared-{number} "
            f"{{ type ipv4_addr; size {2 * SHARED_MEMBERS}; elements = {{ {', '.join(members)} }}; }}"
        )
    lines += [f"add map ip {TABLE} {name} {{ type ifname : verdict; }}" for name in ("to", "from")]
    lines.append(f"add chain ip {TABLE} forward {{ type filter hook forward priority 0; }}")
    for number in range(endpoints):
        lines += _endpoint(number)
    for name, prefix in (("from", "fw"), ("to", "tw")):
        elements = (f'"{interface(n)}" : goto {prefix}-{interface(n)}' for n in range(endpoints))
        lines.append(f"add element ip {TABLE} {name} {{ {', '.join(elements)} }}")
    lines += [
        f'add rule ip {TABLE} forward iifname vmap @from comment "dispatch"',
        f'add rule ip {TABLE} forward oifname vmap @to comment "dispatch"',
    ]
    return "\n".join(lines) + "\n"


def change_text(endpoint: int, version: int) -> str:
    """Return what replaces the rules of an endpoint's policy."""
    chain = f"pi-{policy_name(endpoint)}"
    return "\n".join([f"flush chain ip {TABLE} {chain}", *_rules(chain, _policy(endpoint, version))]) + "\n"


def set_text(members: int) -> str:
    """Return a table with one set of addresses, with room for one more."""
    return (
        f"add table ip {TABLE}\nadd set ip {TABLE} members {{ type ipv4_addr; size {members + 1}; }}\n"
        f"add element ip {TABLE} members {{ {', '.join(addresses(members, 10 << 24))} }}\n"
    )


def element_text(verb: str, name: str = "members") -> str:
    return f"{verb} element ip {TABLE} {name} {{ 11.0.0.0 }}\n"


def _rules(chain: str, rules: Iterator[tuple[str, str]]) -> list[str]:
    return [f'add rule ip {TABLE} {chain} {words} comment "{comment}"' for words, comment in rules]


def _endpoint(number: int) -> Iterator[str]:
    name, policy = interface(number), policy_name(number)
    chains = {
        f"pi-{policy}": _policy(number, 0),
        f"po-{policy}": _egress(),
        f"tw-{name}": iter((*_first(), *_tier(f"pi-{policy}"))),
        f"fw-{name}": iter((*_first(), *_tunnels(), *_tier(f"po-{policy}"))),
    }
    for chain in chains:
        yield f"add chain ip {TABLE} {chain}"
    for chain, rules in chains.items():
        yield from _rules(chain, rules)


def _policy(endpoint: int, version: int) -> Iterator[tuple[str, str]]:
    for rule in range(5):
        port = 1000 + 100 * version + 10 * rule + endpoint % 7
        yield (
            f"meta l4proto tcp ip saddr @shared-{(endpoint + rule) % SHARED_SETS} tcp dport {port} counter "
            + _mark(_ALL ^ _ACCEPT, _ACCEPT),
            "policy ingress",
        )
        yield f"meta mark & {_ACCEPT:#x} == {_ACCEPT:#x} counter return", "return if accepted"


def _egress() -> Iterator[tuple[str, str]]:
    yield f"counter {_mark(_ALL ^ _ACCEPT, _ACCEPT)}", "policy egress"
    yield f"meta mark & {_ACCEPT:#x} == {_ACCEPT:#x} counter return", "return if accepted"


def _first() -> Iterator[tuple[str, str]]:
    yield "ct state established,related counter accept", "established"
    yield "ct state invalid counter drop", "invalid"
    yield f"counter {_mark(_ALL ^ (_ACCEPT | _PASS), 0)}", "clear"


def _tunnels() -> Iterator[tuple[str, str]]:
    yield "udp dport 4789 counter drop", "no VXLAN from workloads"
    yield "meta l4proto 4 counter drop", "no IPIP from workloads"


def _tier(policy: str) -> Iterator[tuple[str, str]]:
    yield f"counter {_mark(_ALL ^ _PASS, 0)}", "start of tier default"
    yield f"meta mark & {_PASS:#x} == 0 counter jump {policy}", "policy"
    yield f"meta mark & {_ACCEPT:#x} == {_ACCEPT:#x} counter return", "return if accepted"
    yield f"meta mark & {_PASS:#x} == 0 counter drop", "end of tier default"
    yield "counter drop", "no profile matched"


def _mark(keep: int, flip: int) -> str:
    return (
        f"meta mark set meta mark & {keep:#x} ^ {flip:#x}" if flip else f"meta mark set meta mark & {keep:#x}"
    )
