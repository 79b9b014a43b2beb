"""Describe the C fast path to cffi (API mode, abi3): `calico_engine._fastpath`.

The extension is optional: without a compiler the install goes on and calico_engine.fastpath uses
its pure-Python twin. The declarations cffi needs are the marked part of include/ce_fastpath.h, so
there is one list of functions.
"""

from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
HEADER = NATIVE / "include" / "ce_fastpath.h"
SOURCES = (
    "sort_rows.c",
    "diff_rows.c",
    "subtract_rows.c",
    "longest_prefix.c",
    "pack_set.c",
    "encode_set.c",
    "parse_set.c",
    "nft_encode.c",
    "nft_parse.c",
)


def read_declarations() -> str:
    """Return the part of the header between the two `cffi` marks."""
    text = HEADER.read_text(encoding="utf-8")
    return text.split("/* cffi: begin */", 1)[1].split("/* cffi: end */", 1)[0]


ffibuilder = FFI()
ffibuilder.cdef(read_declarations())
ffibuilder.set_source(
    "calico_engine._fastpath",
    '#include "ce_fastpath.h"',
    # setuptools wants paths relative to setup.py, and refuses absolute ones in an sdist.
    sources=[f"native/src/{name}" for name in SOURCES],
    include_dirs=["native/include"],
    depends=["native/include/ce_fastpath.h", "native/src/nft_wire.h"],
    extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra"],
    optional=True,
    py_limited_api=True,
)
