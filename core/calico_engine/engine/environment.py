"""What calico/node's environment variables mean for an engine profile.

NODENAME, HOSTNAME            the node's name                       (settings.node_name)
FELIX_*                       parameters                            (settings.SettingsResolver)
DATASTORE_TYPE, FELIX_DATASTORETYPE   which datastore plugin, in place of the profile's
CALICO_NETWORKING_BACKEND     none: no routing plugins; another value is checked against the profile's
CALICO_DISABLE_FILE_LOGGING   true: no log file
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from calico_engine.engine.profile import EngineProfile
from calico_engine.errors import ConfigError

log = logging.getLogger(__name__)

# As calico/node spells them -> the name of our plugin.
_DATASTORES = {
    "etcdv2": "etcd2",
    "etcdv3": "etcd3",
    "kubernetes": "kubernetes",
    "k8s": "kubernetes",
    "file": "file",
}
_BACKENDS = {"none": (), "bird": ("bird",), "gobgp": ("bird", "exabgp"), "vxlan": ("vxlan",)}


def apply_environment(profile: EngineProfile, environ: Mapping[str, str]) -> EngineProfile:
    """Return the profile as the environment changes it. Raises: ConfigError for values calico/node does not know."""
    return _routing(_datastore(profile, environ), environ)


def file_logging_allowed(environ: Mapping[str, str]) -> bool:
    return environ.get("CALICO_DISABLE_FILE_LOGGING", "").lower() not in ("true", "1", "yes", "y", "t")


def _datastore(profile: EngineProfile, environ: Mapping[str, str]) -> EngineProfile:
    key = "DATASTORE_TYPE" if environ.get("DATASTORE_TYPE") else "FELIX_DATASTORETYPE"
    wanted = environ.get(key, "").lower()
    if not wanted:
        return profile
    name = _DATASTORES.get(wanted, wanted if wanted == profile.datastore else "")
    if not name:
        raise ConfigError(f"{key}={wanted!r}", key=key, hint=f"allowed: {', '.join(sorted(_DATASTORES))}")
    return msgspec.structs.replace(profile, datastore=name)


def _routing(profile: EngineProfile, environ: Mapping[str, str]) -> EngineProfile:
    key = "CALICO_NETWORKING_BACKEND"
    wanted = environ.get(key, "").lower()
    if not wanted:
        return profile
    if wanted not in _BACKENDS:
        raise ConfigError(f"{key}={wanted!r}", key=key, hint=f"allowed: {', '.join(sorted(_BACKENDS))}")
    if wanted == "none":
        return msgspec.structs.replace(profile, routing=())
    if not set(_BACKENDS[wanted]) & set(profile.routing):
        log.warning(
            "%s=%s has no effect: profile %s routes by %s; choose a profile that names the plugin you want",
            key,
            wanted,
            profile.name,
            ", ".join(profile.routing) or "nothing",
        )
    return profile
