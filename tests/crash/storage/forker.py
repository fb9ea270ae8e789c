"""The other side of `obeying`: orders to a process next to this one, what its children say, and their deaths."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Forker:
    """A process that forks a child for each order.

    Args:
        script: the script that it runs, which calls `obey`; its name in this folder, or a whole path.
    """

    def __init__(self, script: str | Path) -> None:
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, here / script],
            env=os.environ | {"PYTHONPATH": str(here)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._said = self._process.stdin, self._process.stdout
        self._child = 0
        self.exit_code = 0
        """The exit code of the child that died last."""

    def life(self, order: str) -> Iterator[tuple[str, str]]:
        """What a child says to its end, each time a word and the rest. The word "child" says that there is one."""
        self._orders.write(f"{order}\n")
        for line in self._said:
            word, _, rest = line.strip().partition(" ")
            if word == "dead":
                self._child = 0
                self.exit_code = int(rest)
                return
            if word == "child":
                self._child = int(rest)
            yield word, rest
        raise AssertionError("the process ended by itself")

    def killed_life(self, order: str, after: int, delay: float) -> list[tuple[str, str]]:
        """What a child said that kills itself, or is killed by us `delay` seconds after it has said `after` lines."""
        said = []
        for word, rest in self.life(order):
            if word != "child":
                said.append((word, rest))
            if self._child and len(said) >= after:
                after = sys.maxsize
                with suppress(subprocess.TimeoutExpired):  # it never ends by itself: this is how long it may go on
                    self._process.wait(delay)
                os.kill(self._child, signal.SIGKILL)
        assert self.exit_code == -signal.SIGKILL
        return said

    def close(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        self._orders.close()
        self._said.close()
        self._process.wait()
