"""The fast path by example, on each backend; equality in general is tests/property/fastpath."""

import os
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import ModuleType

import pytest

from calico_engine import fastpath
from calico_engine.fastpath import pure

NATIVE_SOURCES = Path(__file__).resolve().parents[3] / "native"


@pytest.fixture(params=["pure", "native"])
def backend(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "pure":
        return pure
    native: ModuleType = pytest.importorskip("calico_engine.fastpath.native", exc_type=ImportError)
    return native


def pack(*networks: str) -> bytes:
    parsed = [ip_network(text) for text in networks]
    return b"".join(sorted(net.network_address.packed + bytes([net.prefixlen]) for net in parsed))


def test_sort_orders_rows_and_keeps_equal_ones(backend: ModuleType) -> None:
    assert backend.sort_rows(b"c1a2b3a2a1", 2) == b"a1a2a2b3c1"


def test_sort_of_nothing_is_nothing(backend: ModuleType) -> None:
    assert backend.sort_rows(b"", 24) == b""


def test_diff_tells_added_changed_and_removed_apart(backend: ModuleType) -> None:
    desired = b"a1b2d4"
    actual = b"a1b9c3"

    added, changed, removed = backend.diff_rows(desired, actual, 1, 2)

    assert list(added) == [2]
    assert list(changed) == [1]
    assert list(removed) == [2]


def test_diff_of_equal_buffers_is_empty(backend: ModuleType) -> None:
    assert [list(part) for part in backend.diff_rows(b"a1b2", b"a1b2", 1, 2)] == [[], [], []]


@pytest.mark.parametrize("rows", [b"b1a1", b"a1a2"], ids=["descending", "key twice"])
@pytest.mark.parametrize("place", ["desired", "actual"])
def test_diff_refuses_rows_that_do_not_ascend(backend: ModuleType, rows: bytes, place: str) -> None:
    buffers = {"desired": b"", "actual": b""} | {place: rows}

    with pytest.raises(ValueError, match="not sorted, or a key twice"):
        backend.diff_rows(buffers["desired"], buffers["actual"], 1, 2)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda b: b.sort_rows(b"abc", 2), "rows: 3 bytes is no multiple of row_size 2"),
        (lambda b: b.sort_rows(b"abc", 0), "row_size must be positive, got 0"),
        (lambda b: b.diff_rows(b"", b"a", 1, 2), "actual: 1 bytes is no multiple"),
        (lambda b: b.diff_rows(b"", b"", 3, 2), "key_size must be within 1..2"),
        (lambda b: b.longest_prefix(b"", b"", 6), "address_size must be 4"),
        (lambda b: b.longest_prefix(b"", b"abc", 4), "addresses: 3 bytes is no multiple"),
        (lambda b: b.longest_prefix(bytes([10, 0, 0, 1, 8]), b"", 4), "prefixes: not sorted"),
        (lambda b: b.longest_prefix(bytes([10, 0, 0, 0, 33]), b"", 4), "prefixes: not sorted"),
    ],
)
def test_bad_arguments_are_named(backend: ModuleType, call: object, problem: str) -> None:
    assert callable(call)

    with pytest.raises(ValueError, match=problem):
        call(backend)


@pytest.mark.parametrize(
    ("networks", "address", "expected"),
    [
        (("0.0.0.0/0", "10.0.0.0/8", "10.65.0.64/26"), "10.65.0.65", "10.65.0.64/26"),
        (("0.0.0.0/0", "10.0.0.0/8", "10.65.0.64/26"), "10.65.0.1", "10.0.0.0/8"),
        (("0.0.0.0/0", "10.0.0.0/8"), "192.0.2.1", "0.0.0.0/0"),
        (("10.0.0.0/8", "10.0.0.0/32"), "10.0.0.0", "10.0.0.0/32"),
        (("::/0", "2001:db8::/32", "2001:db8::1/128"), "2001:db8::1", "2001:db8::1/128"),
        (("::/0", "2001:db8::/32", "2001:db8::1/128"), "2001:db8::2", "2001:db8::/32"),
        (("::/0", "2001:db8::/32"), "ffff::", "::/0"),
    ],
)
def test_longest_prefix_wins(
    backend: ModuleType, networks: tuple[str, ...], address: str, expected: str
) -> None:
    prefixes = pack(*networks)
    packed = ip_address(address).packed
    row_size = len(packed) + 1

    (row,) = backend.longest_prefix(prefixes, packed, len(packed))

    assert prefixes[row * row_size : (row + 1) * row_size] == pack(expected)


def test_an_address_outside_every_prefix_has_no_row(backend: ModuleType) -> None:
    assert list(backend.longest_prefix(pack("10.0.0.0/8"), ip_address("11.0.0.1").packed, 4)) == [-1]


def test_backend_is_the_forced_one(pytestconfig: pytest.Config) -> None:
    forced = pytestconfig.getoption("--fastpath")

    assert fastpath.backend() in (("native", "pure") if forced is None else (forced,))


@pytest.mark.parametrize(
    ("value", "output"),
    [("pure", "pure"), ("wasm", "CALICO_ENGINE_FASTPATH=wasm: must be `native`, `pure` or unset")],
)
def test_the_environment_forces_a_backend_or_is_refused(value: str, output: str) -> None:
    code = "from calico_engine import fastpath; print(fastpath.backend())"
    env = dict(os.environ, CALICO_ENGINE_FASTPATH=value)

    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)

    assert (done.stdout + done.stderr).strip().endswith(output)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
def test_c_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(NATIVE_SOURCES), "check", f"BUILD={tmp_path}"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "fast path C tests: 9 passed under ASan and UBSan" in done.stdout
    assert "set messages C tests: 7 passed under ASan and UBSan" in done.stdout
    assert "nftables messages C tests: 5 passed under ASan and UBSan" in done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
def test_parsers_of_kernel_bytes_survive_damaged_input(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(NATIVE_SOURCES), "fuzz", f"BUILD={tmp_path}", "FUZZ_SECONDS=1"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs, no error" in done.stdout


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang on this machine, which has libFuzzer")
def test_coverage_led_fuzzing_builds_and_runs(tmp_path: Path) -> None:
    words = ("fuzz", f"BUILD={tmp_path}", "FUZZ_ENGINE=libfuzzer", "CC=clang", "FUZZ_SECONDS=1")

    done = subprocess.run(["make", "-C", str(NATIVE_SOURCES), *words], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    targets = list((NATIVE_SOURCES / "fuzz").glob("fuzz_*.c"))
    assert done.stderr.count("Done ") == len(targets) > 0
