"""The datastore plugin `file`: manifests in a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_engine.plugin import hookimpl

if TYPE_CHECKING:
    from calico_engine.plugin.protocols import Datastore, PluginContext


@hookimpl
def ce_make_datastore(context: PluginContext) -> Datastore:
    from calico_engine_file.config import FileConfig
    from calico_engine_file.plugin import FileDatastore

    config = context.options if isinstance(context.options, FileConfig) else FileConfig()
    return FileDatastore.from_context(context, config)


@hookimpl
def ce_config_type() -> type:
    from calico_engine_file.config import FileConfig

    return FileConfig
