"""The shell into which a stranger types."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from demo.stranger.failing import StrangerError

_DONE: Final = "--- the shell is done:"
_SHOWN: Final = 2_000  # characters of an output that go into a message
_DYING: Final = 10.0  # seconds in which those who were killed are gone, if somebody takes note of their deaths


class Shell:
    """A POSIX shell, with everything that is started in it.

    Args:
        folder: where the shell starts.
        environment: what it starts with.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            ["/bin/sh"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # one group with its jobs: Ctrl-C goes to the demo alone, which ends them all
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read, name="demo: shell", daemon=True)
        self._reading.start()
        # However the demo ends, the shell's input is then closed, and that ends whatever the shell has started.
        self._write("trap 'kill 0' EXIT")

    def run(self, command: str, *, seconds: float = 60) -> str:
        """Type a line and wait until it is done; gives its output.

        Raises:
            StrangerError: the command failed, or is not done after this many seconds.
        """
        self._write(f"{{ {command}\n}} </dev/null; printf '\\n%s %d\\n' '{_DONE}' $?")
        lines: list[str] = []
        until = monotonic() + seconds
        while not lines or not lines[-1].startswith(_DONE):
            try:
                lines.append(self._lines.get(timeout=max(0.0, until - monotonic())))
            except queue.Empty:
                raise StrangerError(f"“{command}” is not done after {seconds:g} s:\n{_end(lines)}") from None
            if not lines[-1]:
                raise StrangerError(f"“{command}” has ended the shell:\n{_end(lines)}")
        code = int(lines.pop().removeprefix(_DONE))
        if code:
            raise StrangerError(f"“{command}” ends with {code}:\n{_end(lines)}")
        return "".join(lines).strip()

    def start(self, command: str) -> Path:
        """Type a line that ends with `&`; gives the file that it goes on writing to, instead of the terminal."""
        words, ends, _ = command.partition("&")
        if not ends:
            raise StrangerError(f"“{command}” would never end: it needs a “&”")
        log = self._folder / f"{re.sub(r'\W+', '-', words.strip())}.log"
        self.run(f"{words.strip()} >>{log.name} 2>&1 &")
        return log

    def close(self) -> None:
        """End the shell, and everything still running that it started; returns when that writes no more."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        until = monotonic() + _DYING
        with suppress(ProcessLookupError):
            while monotonic() < until:
                os.killpg(self._process.pid, 0)
                sleep(0.01)
        self._reading.join(_DYING)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StrangerError("the shell has gone") from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line)
        self._lines.put("")


def _end(lines: list[str]) -> str:
    return "".join(lines).strip()[-_SHOWN:]
