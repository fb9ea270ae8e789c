"""Runs a program again and again in processes that have imported nothing of it yet, and presses Ctrl-C at one import
after another: `interrupted_importing.py TIMES PROGRAM WORDS...`.

For each it prints in a line of JSON what was being imported, how the program ended, and everything that it showed.
"""

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PROGRAM = "trackside_command"


class Interrupter(MetaPathFinder):
    """Finds nothing, and presses Ctrl-C when asked that many times, counted from the program's module; 0 is never."""

    def __init__(self, moment: int, told: int) -> None:
        self.asked = 0
        self._moment = moment
        self._told = told

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if self.asked or name == PROGRAM:
            self.asked += 1
            if self.asked == self._moment:
                os.write(self._told, name.encode())
                os.kill(os.getpid(), signal.SIGINT)
        return None


def run_interrupted(words: list[str], moment: int, told: int) -> None:
    """Be the program, as its first line finds things, and then report the number of imports if no moment was given."""
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = words
    interrupter = Interrupter(moment, told)
    sys.meta_path.insert(0, interrupter)
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        if not moment:
            os.write(told, str(interrupter.asked).encode())


def fork_interrupted(run: Callable[[list[str], int, int], None], words: list[str], moment: int) -> tuple[str, int, str]:
    """What a child process that runs this reported, its exit code, and everything that it showed."""
    shown, showing = os.pipe()
    told, telling = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(showing, 1)
        os.dup2(showing, 2)
        for descriptor in (shown, showing, told):
            os.close(descriptor)
        run(words, moment, telling)
        sys.exit("the program did not say how it ended")
    os.close(showing)
    os.close(telling)
    with os.fdopen(shown, "rb") as output, os.fdopen(told, "rb") as answer:
        said = output.read().decode(errors="replace"), answer.read().decode()
    _, status = os.waitpid(child, 0)
    return said[1], os.waitstatus_to_exitcode(status), said[0]


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted, words = int(sys.argv[1]), sys.argv[2:]
    imports, code, shown = fork_interrupted(run_interrupted, words, 0)
    print(json.dumps(["", code, shown]), flush=True)
    last = int(imports)
    for number in range(wanted):  # not from the first import, during which nobody listens yet
        moment = 2 + number * (last - 2) // wanted
        print(json.dumps(fork_interrupted(run_interrupted, words, moment)), flush=True)


if __name__ == "__main__":
    main()
