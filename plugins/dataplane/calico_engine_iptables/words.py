"""Rules in iptables' words.

Pure. Three spellings of one rule: the long one that the hash covers (Felix's, so that hashes agree), the same as a
line for iptables-restore, and the one iptables-save prints back. Rules must be lowered first (ruleset.lower).
Source: felix/iptables/match_builder.go, actions.go, renderer.go; iptables 1.8 libxt_*.c for the saved spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import assert_never

from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset.digest import COMMENT_PREFIX, rule_hashes
from calico_engine.ruleset.ir import (
    Accept,
    AddrTypeIs,
    Classify,
    Continue,
    CtStateIn,
    CtStatusDnat,
    DispatchByInterface,
    Dnat,
    Drop,
    Family,
    Goto,
    IcmpIs,
    InterfaceAssigned,
    InterfaceIs,
    Jump,
    Log,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NetInAny,
    Nflog,
    NoTrack,
    Op,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Reject,
    Return,
    RpfFailed,
    Rule,
    SetLookup,
    SetMark,
    Side,
    Snat,
    SourceAssigned,
)
from calico_engine.ruleset.names import safe_text, set_name
from calico_engine.settings import Layout

#: XT_MAX_COMMENT_LEN is 256 with the NUL.
COMMENT_MAX_CHARS = 255
#: xt_LOG keeps 30 characters with the NUL.
LOG_PREFIX_MAX_CHARS = 29
#: xt_NFLOG keeps 64 with the NUL.
NFLOG_PREFIX_MAX_CHARS = 63

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
# As /etc/protocols has them, which iptables-save consults.
_SAVED_PROTOCOLS = (
    _PROTOCOLS
    | {2: "igmp", 4: "ipencap", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah"}
    | {58: "ipv6-icmp", 89: "ospf", 103: "pim", 112: "vrrp"}
)
# The order in which libxt_conntrack prints states, whatever order they were given in.
_SAVED_STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")


def fragments(rule: Rule, family: Family, layout: Layout) -> str:
    """Return comments, matches and operation in the long spelling, without chain and hash."""
    words = [_comment(text) for text in rule.comments]
    words += [_match(match, family, layout) for match in rule.matches]
    # Continue has no words.
    if op := _op(rule.op):
        words.append(op)
    return " ".join(words)


def chain_hashes(chain: str, rules: Sequence[Rule], family: Family, layout: Layout) -> list[str]:
    """Return each rule's hash, in order. `chain` is the kernel's chain for rules of a hook."""
    return hash_words(chain, [fragments(rule, family, layout) for rule in rules])


def hash_words(chain: str, words: Sequence[str]) -> list[str]:
    """Return the hashes of rules whose `fragments` these are."""
    head = f"-A {chain} HASH"
    return rule_hashes(chain, (f"{head} {text}" if text else head for text in words))


def restore_line(chain: str, rule: Rule, rule_hash: str, family: Family, layout: Layout) -> str:
    """Return `-A chain -m comment --comment "cali:hash" ...` for iptables-restore, without a newline."""
    return line_of_words(chain, fragments(rule, family, layout), rule_hash)


def line_of_words(chain: str, words: str, rule_hash: str) -> str:
    """Return the line of the rule whose `fragments` these are."""
    return f"-A {chain} {_hash_comment(rule_hash)} {words}".rstrip()


def save_line(chain: str, rule: Rule, rule_hash: str, family: Family, layout: Layout) -> str:
    """Return the rule as iptables-save prints it: addresses, interfaces and protocol first, the rest as given."""
    head: dict[str, str] = {}
    rest = [_hash_comment(rule_hash), *(_comment(text) for text in rule.comments)]
    for match in rule.matches:
        match match:
            case NetIn(side=side, cidr=cidr, negate=negate):
                key = "-s" if side is Side.SRC else "-d"
                head[key] = f"{_not(negate)}{key} {ip_network(cidr)}"
            case InterfaceIs(direction=direction, name=name, negate=negate):
                key = "-i" if direction == "in" else "-o"
                head[key] = f"{_not(negate)}{key} {name}"
            case ProtocolIs(number=number, negate=negate):
                head["-p"] = f"{_not(negate)}-p {_SAVED_PROTOCOLS.get(number, number)}"
            case _:
                rest.append(_saved_match(match, family, layout))
    # A catch-all address is no condition: iptables drops it.
    front = [
        head[key] for key in ("-s", "-d", "-i", "-o", "-p") if key in head and not head[key].endswith("/0")
    ]
    return " ".join(word for word in ("-A", chain, *front, *rest, _saved_op(rule.op, family)) if word)


def _not(negate: bool) -> str:  # noqa: FBT001  it is the datum, not a switch
    return "! " if negate else ""


def _comment(text: str) -> str:
    return f'-m comment --comment "{safe_text(text, COMMENT_MAX_CHARS)}"'


def _hash_comment(rule_hash: str) -> str:
    return f'-m comment --comment "{COMMENT_PREFIX}{rule_hash}"'


def _ports(ports: Sequence[PortRange]) -> str:
    return ",".join(str(p.first) if p.first == p.last else f"{p.first}:{p.last}" for p in ports)


def _hex(value: int) -> str:
    """Spell a number as Felix does in the hashed text: 0 is "0", not "0x0"."""
    return f"{value:#x}" if value else "0"


def _match(match: Match, family: Family, layout: Layout) -> str:
    match match:
        case ProtocolIs(number=number, negate=negate):
            return f"{_not(negate)}-p {_PROTOCOLS.get(number, number)}"
        case NetIn(side=side, cidr=cidr, negate=negate):
            return f"{_not(negate)}--{'source' if side is Side.SRC else 'destination'} {cidr}"
        case PortIn(side=side, ports=ports, negate=negate):
            word = "source" if side is Side.SRC else "destination"
            return f"-m multiport {_not(negate)}--{word}-ports {_ports(ports)}"
        case SetLookup():
            return _set_match(match, family, layout)
        case InterfaceIs(direction=direction, name=name, negate=negate):
            return f"{_not(negate)}--{direction}-interface {name}"
        case CtStateIn(states=states, negate=negate):
            return f"-m conntrack {_not(negate)}--ctstate {','.join(states)}"
        case CtStatusDnat(negate=negate):
            return f"-m conntrack {_not(negate)}--ctstate DNAT"
        case MarkIs(value=value, mask=mask, negate=negate):
            return f"-m mark {_not(negate)}--mark {_hex(value)}/{mask:#x}"
        case IcmpIs():
            return _icmp_match(match, family)
        case AddrTypeIs():
            return _addrtype_match(match)
        case RpfFailed(accept_local=accept_local):
            return f"-m rpfilter --invert --validmark{' --accept-local' if accept_local else ''}"
        case NetInAny() | PortOrNamedPort() | SourceAssigned() | InterfaceAssigned():
            raise TypeError(f"{type(match).__name__} has no iptables spelling: lower the rule first")
        case _:
            assert_never(match)


def _set_match(match: SetLookup, family: Family, layout: Layout) -> str:
    side = f"{match.side},{match.side}" if match.kind is SetKind.IP_PORT else f"{match.side}"
    return f"-m set {_not(match.negate)}--match-set {set_name(match.set_id, family, layout)} {side}"


def _icmp_match(match: IcmpIs, family: Family) -> str:
    word = "-m icmp6 {}--icmpv6-type" if family is Family.V6 else "-m icmp {}--icmp-type"
    code = "" if match.code is None else f"/{match.code}"
    return f"{word.format(_not(match.negate))} {match.type}{code}"


def _addrtype_match(match: AddrTypeIs) -> str:
    limit = " --limit-iface-out" if match.limit_iface_out else ""
    return f"-m addrtype {_not(match.negate)}--{match.side}-type {match.type}{limit}"


def _op(op: Op) -> str:  # noqa: C901  one arm per operation, nothing else
    match op:
        case Accept():
            return "--jump ACCEPT"
        case Drop():
            return "--jump DROP"
        case Reject(with_=with_):
            return f"--jump REJECT --reject-with {with_}" if with_ else "--jump REJECT"
        case Return():
            return "--jump RETURN"
        case Jump(chain=chain):
            return f"--jump {chain}"
        case Goto(chain=chain):
            return f"--goto {chain}"
        case SetMark(value=value, mask=mask):
            return f"--jump MARK --set-mark {_hex(value)}/{mask:#x}"
        case Log(prefix=prefix, level=level):
            return f'--jump LOG --log-prefix "{_log_prefix(prefix)}" --log-level {level}'
        case Nflog(group=group, prefix=prefix):
            text = safe_text(prefix, NFLOG_PREFIX_MAX_CHARS)
            return f'--jump NFLOG --nflog-group {group} --nflog-prefix "{text}" --nflog-size 80'
        case Masquerade(ports=ports):
            return f"--jump MASQUERADE --to-ports {ports}" if ports else "--jump MASQUERADE"
        case Dnat(address=address):
            return f"--jump DNAT --to-destination {address}"
        case Snat(address=address):
            return f"--jump SNAT --to-source {address}"
        case NoTrack():
            return "--jump NOTRACK"
        case Continue():
            return ""
        case DispatchByInterface() | Classify():
            raise TypeError(f"{type(op).__name__} has no iptables spelling: lower the chain first")
        case _:
            assert_never(op)


def _log_prefix(prefix: str) -> str:
    return safe_text(prefix, LOG_PREFIX_MAX_CHARS - 2) + ": "


def _saved_match(match: Match, family: Family, layout: Layout) -> str:
    match match:
        case PortIn(side=side, ports=ports, negate=negate):
            word = "sports" if side is Side.SRC else "dports"
            return f"-m multiport {_not(negate)}--{word} {_ports(ports)}"
        case MarkIs(value=value, mask=mask, negate=negate):
            return f"-m mark {_not(negate)}--mark {value:#x}/{mask:#x}"
        case CtStateIn(states=states, negate=negate):
            ordered = ",".join(state for state in _SAVED_STATES if state in states)
            return f"-m conntrack {_not(negate)}--ctstate {ordered}"
        case RpfFailed(accept_local=accept_local):
            return f"-m rpfilter --validmark{' --accept-local' if accept_local else ''} --invert"
        case _:
            return _match(match, family, layout)


def _saved_op(op: Op, family: Family) -> str:
    match op:
        case SetMark(value=value, mask=mask):
            return f"-j MARK --set-xmark {value:#x}/{mask:#x}"
        case Goto(chain=chain):
            return f"-g {chain}"
        case Reject(with_=with_):
            default = "icmp6-port-unreachable" if family is Family.V6 else "icmp-port-unreachable"
            return f"-j REJECT --reject-with {with_ or default}"
        case _:
            return _op(op).replace("--jump", "-j", 1)
