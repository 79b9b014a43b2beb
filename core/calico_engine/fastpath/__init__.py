"""Loops over packed row buffers, in C where the extension was built and in Python everywhere.

Pure but for one reading of CALICO_ENGINE_FASTPATH at import: `pure` or `native` forces a backend
(native then fails with ImportError where it was not built), unset takes native if it is there. Both
give equal results; pure.py, set_messages.py and set_text.py are the specification.
"""

import os
from typing import Literal

from calico_engine.fastpath import nft_messages, pure, set_messages, set_text
from calico_engine.fastpath.set_messages import SET_ROW_SIZE

Backend = Literal["native", "pure"]


def _choose(forced: str | None) -> Backend:
    if forced not in (None, "", "native", "pure"):
        raise ImportError(f"CALICO_ENGINE_FASTPATH={forced}: must be `native`, `pure` or unset")
    if forced == "pure":
        return "pure"
    try:
        from calico_engine import _fastpath  # noqa: F401  (asks only whether it loads)
    except ImportError:
        if forced == "native":
            raise
        return "pure"
    return "native"


_BACKEND: Backend = _choose(os.environ.get("CALICO_ENGINE_FASTPATH"))

if _BACKEND == "native":
    from calico_engine.fastpath.native import (
        diff_rows,
        encode_set_members,
        longest_prefix,
        pack_set_members,
        parse_set_dump,
        sort_rows,
        sort_unique_rows,
        subtract_rows,
    )
    from calico_engine.fastpath.native_nft import (
        assemble_rules,
        encode_set_elements,
        number_messages,
        parse_element_dump,
        parse_rule_dump,
    )
else:
    from calico_engine.fastpath.nft_messages import (
        assemble_rules,
        encode_set_elements,
        number_messages,
        parse_element_dump,
        parse_rule_dump,
    )
    from calico_engine.fastpath.pure import (
        diff_rows,
        longest_prefix,
        sort_rows,
        sort_unique_rows,
        subtract_rows,
    )
    from calico_engine.fastpath.set_messages import encode_set_members, parse_set_dump
    from calico_engine.fastpath.set_text import pack_set_members


def backend() -> Backend:
    """Return which implementation is in use."""
    return _BACKEND


__all__ = [
    "SET_ROW_SIZE",
    "Backend",
    "assemble_rules",
    "backend",
    "diff_rows",
    "encode_set_elements",
    "encode_set_members",
    "longest_prefix",
    "nft_messages",
    "number_messages",
    "pack_set_members",
    "parse_element_dump",
    "parse_rule_dump",
    "parse_set_dump",
    "pure",
    "set_messages",
    "set_text",
    "sort_rows",
    "sort_unique_rows",
    "subtract_rows",
]
