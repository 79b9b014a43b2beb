"""The program `calico-engine`.

Exit codes, the same for every command:

    0    done; a question was answered with yes
    1    failed, or a question was answered with no (check: something is missing; validate: a manifest is wrong;
         explain: the packet is dropped; status: the engine is not ready)
    2    the command line is wrong
    3    no engine is running here (status, switch, dump, plan)
    4    a profile, a setting or a plugin is wrong
    130  interrupted

With `-o json` standard output is one JSON document and nothing else; its keys, which each command's --help lists, stay
as they are. Messages go to standard error: `error: ...`, and where there is one, a line `hint: ...`.

Only click is imported before a command is chosen, so that `--help` and completion are quick.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_CONFIG = 4
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the program and exit."""
    from calico_engine.cli.app import run_program

    raise SystemExit(run_program())
