"""Runs one command again and again in processes forked from this one, which has imported everything, and presses Ctrl-C
at one step after another: `interrupted.py STEPS COMMAND...`, where STEPS is how many of the steps to take.

A step is the beginning of a function of the command line, or of what it runs its event loop with. For each step it
prints in a line of JSON what the function is, how the command ended, and everything that it showed.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
from types import CodeType
from typing import NoReturn

from interrupted_importing import fork_interrupted

import trackside.app.cli

ROOMS = ("/trackside/app/cli/", "/asyncio/", "/contextlib.py", "/threading.py", "/selectors.py", "/concurrent/futures/")
TOOL = sys.monitoring.PROFILER_ID


def import_everything() -> None:
    package = trackside.app.cli
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def run_interrupted(words: list[str], step: int, told: int) -> NoReturn:
    """Be the command, and press Ctrl-C at this step; step 0 is none, and then `told` takes the number of steps."""
    steps = 0

    def begin(code: CodeType, offset: int) -> object:
        nonlocal steps
        if not any(room in code.co_filename for room in ROOMS):
            return sys.monitoring.DISABLE
        steps += 1
        if steps == step:
            sys.monitoring.set_events(TOOL, 0)
            os.write(told, code.co_qualname.encode())
            os.kill(os.getpid(), signal.SIGINT)
        return None

    # The existing streams were made for another output, one that can seek.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["trackside", *words]
    sys.monitoring.use_tool_id(TOOL, "interrupted")
    sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, begin)
    sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
    code = trackside.app.cli.main()
    sys.monitoring.set_events(TOOL, 0)
    if not step:
        os.write(told, str(steps).encode())
    sys.exit(code)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted, words = int(sys.argv[1]), sys.argv[2:]
    import_everything()
    gc.collect()
    gc.freeze()  # so that no child looks at the objects it inherits
    steps, code, shown = fork_interrupted(run_interrupted, words, 0)
    print(json.dumps(["", code, shown]), flush=True)
    every = max(1, int(steps) // wanted)
    for step in range(2, int(steps) + 1, every):  # the first step is `main` itself, which has not begun yet
        print(json.dumps(fork_interrupted(run_interrupted, words, step)), flush=True)


if __name__ == "__main__":
    main()
