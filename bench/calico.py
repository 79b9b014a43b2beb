"""The plugin `nftables` as a subject: loaded, changed, and its transactions recorded for the floor to replay."""

from __future__ import annotations

from bench.figures import Subject
from bench.node import STACKS, Node
from calico_engine.messages import Batch
from calico_engine.plugin.registry import installed

NFTABLES = "calico-engine nftables"
REPLAYED = "calico-engine's bytes replayed"


class Calico(Node):
    """A node with the plugin `nftables`."""

    def __init__(self) -> None:
        super().__init__(STACKS["nftables"])

    @staticmethod
    def is_installed() -> bool:
        return any(info.name == "nftables" for info in installed("dataplane"))

    def load_subjects(self, world: Batch) -> list[Subject]:
        raise NotImplementedError

    def policy_subjects(self, endpoint: int) -> list[Subject]:
        raise NotImplementedError

    def member_subjects(self) -> list[Subject]:
        raise NotImplementedError
