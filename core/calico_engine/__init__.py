"""calico-engine: a Calico node agent assembled from plugins.

The core holds the resource model, the calculation graph and the rule compiler (all pure), and the
engine that feeds them; datastores, dataplanes, routing and orchestrators are plugins that a profile
names. Third parties import `calico_engine.plugin`; embedders import what is exported here.
"""

__version__ = "0.1.0"
