"""Servers that live no longer than the process that started them, whatever happens to that process.

A shell that holds the other end of a pipe starts and stops the server, and answers each order with the number of the
server's process. When that end is closed, by `close` or because the process is gone, the shell kills the server and
removes its files.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from left_processes import is_there

from trackside.app.engine.local import programs

type StopSignal = Literal["TERM", "KILL"]

_START_TRIES: Final = 3  # somebody may take the port that was just free
_START_SECONDS: Final = 40.0

_KEEP: Final = """
folder=$1; shift
end() { [ -z "$server" ] || { kill -s "$1" "$server"; wait "$server"; server=; } 2>/dev/null; }
while read -r order; do
    case $order in
        start) "$@" >>"$folder/log" 2>&1 </dev/null & server=$! ;;
        STOP) kill -s STOP "$server" ;;
        *) end "$order" ;;
    esac
    echo "$server"
done
end KILL
rm -rf "$folder"
"""


class KeptServer:
    """A server with a port and a folder of its own on this machine, running from the beginning."""

    ready: ClassVar[str]
    """What it writes to its log each time it is ready to take connections."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"trackside-{name}-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self._keeper: subprocess.Popen[str] | None = None
        try:
            self._start_somewhere()
        except BaseException:
            self.close()
            raise

    def command(self) -> Sequence[str | Path]:
        """The command that starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, on the data that it has; returns when it takes connections.

        Raises:
            RuntimeError: it has ended instead, or takes none; the message is its log.
        """
        started_before = self._log().count(self.ready)
        process = self._order("start")
        until = time.monotonic() + _START_SECONDS
        while self._log().count(self.ready) == started_before:
            if _has_ended(process) or time.monotonic() > until:
                raise RuntimeError(self._log())
            time.sleep(0.005)

    def stop(self, signal: StopSignal = "TERM") -> None:
        """Stop it; `KILL` is like a power cut, for the server."""
        self._order(signal)

    def freeze(self) -> None:
        """Have it accept what comes and do nothing with it, until it is stopped by `KILL`."""
        self._order("STOP")

    def restart(self, signal: StopSignal = "TERM") -> None:
        """Stop it and start it again, at the same address."""
        self.stop(signal)
        self.start()

    def close(self) -> None:
        """Stop it, if it runs, and remove its files. May be called again."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait()
            assert self._keeper.stdout is not None
            self._keeper.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_somewhere(self) -> None:
        for tries_left in reversed(range(_START_TRIES)):
            [self.port] = free_ports(1)
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEP, "keeper", self.folder, *self.command()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
            )
            try:
                self.start()
            except RuntimeError:
                if not tries_left:
                    raise
                self.close()
                self.data.mkdir(parents=True)
            else:
                return

    def _order(self, order: str) -> str:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{order}\n")
        self._keeper.stdin.flush()
        return self._keeper.stdout.readline().strip()

    def _log(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""


def _has_ended(process: str) -> bool:
    """Whether a process has ended, as far as this system says it."""
    return Path("/proc/self/stat").exists() and not is_there(int(process))


def free_ports(count: int) -> list[int]:
    """Ports as the processes of a fleet get them, also for a server that a test starts on its event loop.

    Trackside's own code may read no file there.
    """
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(programs.free_ports, count).result()
