"""calico-engine: a Calico node agent assembled from plugins.

The core holds the resource model, the calculation graph and the rule compiler (all pure), and the
engine that feeds them; datastores, dataplanes, routing and orchestrators are plugins that a profile
names. Third parties import `calico_engine.plugin`; embedders import what is exported here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calico_engine import evaluation, model, selector
    from calico_engine.evaluation import Flow, Verdict, World, evaluate

__version__ = "0.1.0"
__all__ = ["Flow", "Verdict", "World", "__version__", "evaluate", "evaluation", "model", "selector"]

_PACKAGES = frozenset(("evaluation", "model", "selector"))


def __getattr__(name: str) -> object:
    # Imported on first use: whoever wants only the version or a plugin's contract does not pay for the model.
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(import_module(f"{__name__}.evaluation"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
