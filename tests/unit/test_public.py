"""What `import calico_engine` gives without further imports, and what it does not import by itself."""

import subprocess
import sys

import pytest

import calico_engine


def test_public_names_are_there() -> None:
    assert calico_engine.model.load("") == ()
    assert calico_engine.selector.parse("a == 'b'").matches({"a": "b"})
    assert calico_engine.evaluate([], calico_engine.Flow(src="10.0.0.1", dst="10.0.0.2")).allowed
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = calico_engine.nothing


def test_the_bare_import_is_cheap() -> None:
    code = "import sys, calico_engine; sys.exit('msgspec' in sys.modules or 'yaml' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
