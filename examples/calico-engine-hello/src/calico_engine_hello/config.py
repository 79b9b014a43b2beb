"""Settings of the dataplane `hello`, as a profile's section gives them."""

import msgspec


class HelloConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """path: the file to write; "" is `hello.json` in the engine's run directory."""

    path: str = ""
