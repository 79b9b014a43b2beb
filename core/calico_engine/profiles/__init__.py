"""The engine profiles that ship with the core, as TOML; `calico_engine.engine.profile` reads them."""
