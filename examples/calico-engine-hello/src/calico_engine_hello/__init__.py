"""Hooks of the dataplane `hello`; the work is in plugin.py."""

from collections.abc import Mapping
from importlib.resources import files

from calico_engine.plugin import Dataplane, PluginContext, hookimpl
from calico_engine_hello.config import HelloConfig
from calico_engine_hello.plugin import HelloDataplane


@hookimpl
def ce_config_type() -> type:
    return HelloConfig


@hookimpl
def ce_make_dataplane(context: PluginContext) -> Dataplane:
    return HelloDataplane.from_context(context)


@hookimpl
def ce_register_profiles() -> Mapping[str, str]:
    return {"hello": files(__name__).joinpath("hello.toml").read_text(encoding="utf-8")}
