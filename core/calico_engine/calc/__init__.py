"""The calculation graph: from resources of the whole cluster to what one node must do. Pure."""

from calico_engine.calc.graph import CalcGraph, GraphStats

__all__ = ["CalcGraph", "GraphStats"]
