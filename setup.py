"""Build the optional C fast path; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["native/build_fastpath.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
