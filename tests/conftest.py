"""Options, markers and guards shared by every test.

--kernel says what a test marked `kernel` or `component` may do when this machine lacks something:
auto skips it with the reason, require (the default where CI is set) fails it, off skips them all. What
a machine may lack even then is listed in allowed_missing.toml with the rig that covers it.
"""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent
ALLOWED = "allowed to be missing: "
#: Where Debian has ip, iptables and ipset, and what a user's PATH leaves out.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"

settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=200,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# What a test may name in @pytest.mark.kernel(features=...): a command that works in a fresh network
# namespace exactly when the kernel (and its tool) has the feature.
FEATURE_PROBES: dict[str, tuple[str, ...]] = {
    "dummy": ("ip", "link", "add", "t0", "type", "dummy"),
    "ipip": ("ip", "link", "add", "t0", "type", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2"),
    "ipset": ("ipset", "create", "t0", "hash:net"),
    "iptables-legacy": ("iptables-legacy", "--wait", "--new-chain", "t0"),
    "iptables-nft": ("iptables-nft", "--wait", "--new-chain", "t0"),
    "nftables": ("nft", "add", "table", "inet", "t0"),
    "sctp": ("python3", "-c", "import socket as s; s.socket(s.AF_INET, s.SOCK_STREAM, s.IPPROTO_SCTP)"),
    "veth": ("ip", "link", "add", "t0", "type", "veth"),
    "vxlan": ("ip", "link", "add", "t0", "type", "vxlan", "id", "1", "dstport", "4789"),
    "wireguard": ("ip", "link", "add", "t0", "type", "wireguard"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("calico-engine")
    group.addoption(
        "--kernel",
        choices=("auto", "require", "off"),
        default="require" if os.environ.get("CI") else "auto",
        help="kernel and component tests: skip what cannot run here, fail it, or skip all",
    )
    group.addoption("--fastpath", choices=("pure", "native"), help="force one fast path backend")
    group.addoption("--update-golden", action="store_true", help="rewrite golden files (never in CI)")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"
    forced = config.getoption("--fastpath")
    if forced:
        # Read when calico_engine.fastpath is imported, which is later than this.
        os.environ["CALICO_ENGINE_FASTPATH"] = forced
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden: golden files are reviewed like code, not written in CI")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in tests/kernel, so that no test programs a kernel in the run without root."""
    for item in items:
        if item.path.is_relative_to(TESTS / "kernel") and item.get_closest_marker("kernel") is None:
            item.add_marker(pytest.mark.kernel)


@cache
def kernel_has(feature: str) -> bool:
    """Probe a feature in a network namespace of its own; needs root."""
    probe = subprocess.run(["unshare", "--net", *FEATURE_PROBES[feature]], capture_output=True, check=False)
    return probe.returncode == 0


@cache
def allowed_missing() -> dict[str, str]:
    """Return what a CI machine may lack: feature or program -> the rig that covers it."""
    with (TESTS / "allowed_missing.toml").open("rb") as file:
        document = tomllib.load(file)
    return {**document["features"], **document["programs"]}


def _lacks(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Yield (name, sentence) for everything this machine lacks that the test needs."""
    programs: set[str] = set()
    features: set[str] = set()
    for mark in item.iter_markers("kernel"):
        programs.update(("ip", "unshare"), mark.kwargs.get("tools", ()))
        features.update(mark.kwargs.get("features", ()))
        if os.geteuid() != 0:
            yield "root", "needs root"
            return
    for mark in item.iter_markers("component"):
        programs.update(mark.args)
    for program in sorted(programs):
        if shutil.which(program) is None:
            yield program, f"{program} is not installed"
    for feature in sorted(features):
        if not kernel_has(feature):
            yield feature, f"this kernel has no {feature}"


def _is_guarded(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("kernel", "component"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not _is_guarded(item):
        return
    mode = item.config.getoption("--kernel")
    if mode == "off":
        pytest.skip(f"{ALLOWED}--kernel=off")
    for name, sentence in _lacks(item):
        if mode == "auto":
            pytest.skip(sentence)
        if name not in allowed_missing():
            pytest.fail(f"{sentence}, and tests/allowed_missing.toml does not list it", pytrace=False)
        pytest.skip(f"{ALLOWED}{sentence}; covered by {allowed_missing()[name]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]  # what a wrapper's yield gives is untyped
    if report.skipped and _is_guarded(item) and item.config.getoption("--kernel") == "require":
        reason = str(report.longrepr)
        if ALLOWED not in reason and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"skipped where --kernel=require: {reason}"
    return report  # type: ignore[return-value]  # as above


def _machine_state() -> dict[str, str]:
    """Return what calico-engine could have left in the machine's own network namespace."""
    state = {}
    commands = [
        ("nft", "--stateless", "list", "ruleset"),
        ("ipset", "list", "-name"),
        ("ip", "route", "show", "table", "all", "proto", "80"),
    ]
    # Merely asking the legacy tools creates the table, so ask only where one exists.
    for family, tool in (("ip", "iptables"), ("ip6", "ip6tables")):
        names = Path(f"/proc/net/{family}_tables_names")
        if names.exists() and names.read_text().strip():
            commands.append((f"{tool}-legacy-save",))
    for argv in commands:
        if shutil.which(argv[0]):
            done = subprocess.run(argv, text=True, capture_output=True, check=False)
            lines = [line.split(" [")[0] for line in done.stdout.splitlines() if not line.startswith("#")]
            state[" ".join(argv)] = "\n".join(lines)
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    state["interfaces"] = "\n".join(name for name in links if name.startswith(("cali", "vxlan.calico")))
    return state


@pytest.fixture(scope="session")
def machine_untouched() -> Iterator[None]:
    """Fail the session when kernel tests changed the machine's own namespace."""
    before = _machine_state()

    yield

    assert _machine_state() == before


@pytest.fixture(autouse=True)
def _guard_machine(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kernel"):
        request.getfixturevalue("machine_untouched")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Return check(path, text): text equals the file; --update-golden writes it instead."""
    update = request.config.getoption("--update-golden")

    def check(path: Path, text: str) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check
