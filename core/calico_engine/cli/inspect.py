"""`calico-engine status` and `dump`: ask the running engine over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.client import ask
from calico_engine.cli.options import run_dir_option
from calico_engine.cli.output import duration, output_option, print_fields, print_json, print_table

_ENDPOINTS_SHOWN = 40
_WARNINGS_SHOWN = 10


@click.command()
@run_dir_option
@output_option
def status(run_dir: str, output: str) -> int:
    """How the running engine is. Exit code 0 when it is live and ready, else 1; 3 when none is running.

    JSON: {"node", "profile", "version", "pid", "uptime_s", "datastore", "live", "ready", "settled", "revision",
    "passes", "plugins": [{"name", "family", "state", "error", "failures", "age_s", "duration_s", "writes", "rebuilds",
    "next_resync_s"}], "endpoints": {KEY: "up"|"down"|"error"}, "rejected": {KEY: reason}, "counts": {WHAT: number},
    "problems": {SUBJECT: text}, "warnings": [{"plugin", "message", "time"}], "notices": [text], "dataplane": [NAME],
    "switch": null or {"before", "after", "phase", "lines", "error", "trouble"}}
    """
    answer = ask(run_dir, "/status", timeout_s=10.0)
    good = bool(answer.get("live")) and bool(answer.get("ready"))
    if output == "json":
        print_json(answer)
    else:
        _print_status(answer)
    return EXIT_OK if good else EXIT_FAILED


def _print_status(answer: dict[str, object]) -> None:
    counts = cast(dict[str, int], answer.get("counts", {}))
    print_fields(
        {
            "node": answer.get("node"),
            "engine": f"{answer.get('version')}, process {answer.get('pid')}, profile {answer.get('profile')}",
            "up for": duration(cast(float, answer.get("uptime_s"))),
            "datastore": answer.get("datastore"),
            "dataplane": _dataplane(answer),
            "live": _yes(answer.get("live")),
            "ready": _yes(answer.get("ready")),
            "in force": ", ".join(_counted(what, number) for what, number in counts.items() if number)
            or "nothing",
        }
    )
    click.echo()
    plugins = cast(list[dict[str, object]], answer.get("plugins", []))
    print_table(
        ["plugin", "state", "last apply", "took", "writes", "problem"],
        [
            [
                f"{plugin['family']}:{plugin['name']}",
                str(plugin["state"]),
                _ago(cast("float | None", plugin["age_s"])),
                duration(cast(float, plugin["duration_s"])),
                str(plugin["writes"]),
                str(plugin["error"]),
            ]
            for plugin in plugins
        ],
    )
    _print_endpoints(cast(dict[str, str], answer.get("endpoints", {})))
    for name, text in _troubles(answer):
        print_fields({name: text})
    for text in cast(list[str], answer.get("notices", [])):
        print_fields({"notice": text})


def _dataplane(answer: dict[str, object]) -> str:
    """What is in force, and what is being put in its place."""
    text = ", ".join(cast(list[str], answer.get("dataplane", [])))
    state = cast("dict[str, object] | None", answer.get("switch"))
    if state is None or state["phase"] in ("done", "failed"):
        return text
    before, after = (", ".join(cast(list[str], state[end])) for end in ("before", "after"))
    return f"{text}; switching from {before} to {after}: {state['phase']}"


def _troubles(answer: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, each thing once: a problem of a file says which resource was rejected, and was a warning."""
    said: list[str] = []
    for subject, text in cast(dict[str, str], answer.get("problems", {})).items():
        said.append(text)
        yield "problem", text if subject.strip("#=") in text else f"{subject}: {text}"
    told = "\n".join(said)
    for key, reason in cast(dict[str, str], answer.get("rejected", {})).items():
        # A reason that came from a manifest begins with what it is about.
        text = reason if key in reason else f"{key}: {reason}"
        if text not in told:
            yield "rejected", text
    warnings = [w for w in cast(list[dict[str, str]], answer.get("warnings", [])) if w["message"] not in told]
    for warning in warnings[-_WARNINGS_SHOWN:]:
        yield "warning", f"{warning['time']} {warning['plugin']}: {warning['message']}"


def _print_endpoints(endpoints: dict[str, str]) -> None:
    if not endpoints:
        return
    click.echo()
    # What is wrong first: it must not be what is left out.
    ranked = sorted(endpoints.items(), key=lambda item: (item[1] == "up", item[0]))
    print_table(["endpoint", "status"], [[key, state] for key, state in ranked[:_ENDPOINTS_SHOWN]])
    if len(ranked) > _ENDPOINTS_SHOWN:
        click.echo(f"... and {len(ranked) - _ENDPOINTS_SHOWN} more; -o json shows all")


def _counted(what: str, number: int) -> str:
    """Return "1 policy" for ("policies", 1), "2 host endpoints" for ("host_endpoints", 2)."""
    words = what.replace("_", " ")
    if number == 1:
        words = words[:-3] + "y" if words.endswith("ies") else words.removesuffix("s")
    return f"{number} {words}"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"


def _yes(value: object) -> str:
    return "yes" if value else "no"


@click.command()
@click.argument("what", type=click.Choice(["state", "rules", "sets", "routes", "config"]), default="state")
@run_dir_option
@output_option
def dump(what: str, run_dir: str, output: str) -> int:
    """What the running engine has computed, in force or about to be.

    state: every message of the calculation graph; rules, routes: what the plugins program, in their own save formats;
    sets: address sets and members; config: the settings in effect.

    JSON: {"node", "what", "revision"} and, by WHAT, {"messages": [...]}, {"plugins": {NAME: text}},
    {"sets": {ID: [member]}}, {"settings": {...}}
    """
    answer = ask(run_dir, f"/dump?what={what}")
    if output == "json":
        print_json(answer)
    elif what in ("rules", "routes"):
        for name, text in cast(dict[str, str], answer["plugins"]).items():
            click.echo(f"# {name}")
            click.echo(text, nl=not text.endswith("\n"))
    elif what == "sets":
        sets = cast(dict[str, list[str]], answer["sets"])
        print_table(["set", "members"], [[name, " ".join(members)] for name, members in sets.items()])
    elif what == "config":
        settings = cast(dict[str, object], answer["settings"])
        print_table(["setting", "value"], [[name, _short(value)] for name, value in sorted(settings.items())])
    else:
        # The settings have a table of their own.
        messages = [
            m for m in cast(list[dict[str, object]], answer["messages"]) if m["message"] != "ConfigUpdate"
        ]
        print_table(["message", "content"], [[str(m.pop("message")), _short(m)] for m in messages])
    return EXIT_OK


def _short(value: object) -> str:
    import json

    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner not in (None, "", [], {}, False)}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
