"""One node's engine, as the holder starts it: what `calico-engine run` does, without the command line's imports.

python -m calico_engine.lab.agent PROFILE NODE [KEY=VALUE ...]
"""

from __future__ import annotations

import asyncio
import sys

from calico_engine.engine.daemon import make_engine, run_daemon
from calico_engine.errors import CalicoEngineError

#: The machine's own is shared by all nodes; /run is this node's alone, and stays as long as the lab.
STATE_DIRECTORY = "/run/calico-engine"


def main(arguments: list[str]) -> int:
    """Run the engine until SIGTERM; returns the exit code."""
    profile, node, *overrides = arguments
    try:
        engine = make_engine(profile, overrides=overrides, node=node, state_dir=STATE_DIRECTORY)
        asyncio.run(run_daemon(engine))
    except CalicoEngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
