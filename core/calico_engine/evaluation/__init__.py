"""What would happen to a packet: an offline verdict from resources alone.

Pure, and independent of the calculation graph and the rule compiler: it states Calico's semantics a second time, in
plain code, for users who ask "may A talk to B, and which rule says so", and for tests that compare.
Out of scope: established flows (they go through whatever policy says now), NAT, routing, Kubernetes services.
"""

from calico_engine.evaluation.flow import (
    Direction,
    Flow,
    Stage,
    Step,
    StepAction,
    Verdict,
    VerdictAction,
)
from calico_engine.evaluation.walk import evaluate
from calico_engine.evaluation.world import World

__all__ = [
    "Direction",
    "Flow",
    "Stage",
    "Step",
    "StepAction",
    "Verdict",
    "VerdictAction",
    "World",
    "evaluate",
]
