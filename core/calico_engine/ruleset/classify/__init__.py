"""Classification: a packet's verdict from its identity and its service, instead of a walk over its policies.

Pure. `Classifier` is the door: sets and lists of policies in, identities and verdict tables out.

    combinations   what an address is a member of, and its number
    nets           networks as disjoint ranges
    hosts          single addresses in order
    pairs          identities that exist, their numbers, bitmaps of sets
    identities     sets of members in, which pair every address has out
    services       classes of protocol and port
    resolve        a list of policies as steps
    verdicts       steps over bitmaps -> VerdictTable
    exact          a VerdictTable in exact keys, for the kernel's hashes
    journal        what became different
"""

from calico_engine.ruleset.classify.classifier import LIMIT_CELLS, Classifier
from calico_engine.ruleset.classify.exact import ExactTable, make_exact
from calico_engine.ruleset.classify.journal import ClassifierChanges, MemberChange
from calico_engine.ruleset.classify.resolve import ListPolicies, PolicyList

__all__ = [
    "LIMIT_CELLS",
    "Classifier",
    "ClassifierChanges",
    "ExactTable",
    "ListPolicies",
    "MemberChange",
    "PolicyList",
    "make_exact",
]
