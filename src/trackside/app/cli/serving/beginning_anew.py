"""Replaces the process of a server or worker with a new one of the same command.

The new one has the same process id, the same sockets, and the environment and the folder that this one was started with.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from trackside.app.wiring.elsewhere import tried_elsewhere

_COMMANDS: Final = ("serve", "worker")
_CHECK_SECONDS: Final = 120.0
_MOST_SAID: Final = 65_536
_LISTENS_AT: Final = "_TRACKSIDE_LISTENS_AT"
"""The variable with a server's socket addresses, for the process that checks whether the server could begin anew."""
_started_with: Final[dict[str, str]] = {}
_started_in: Path | None = None


def remember_start() -> None:
    """Have the process that replaces this one start with the environment as it is now, and in this folder.

    Call this before an agent, or a LangGraph project's file of variables, changes either. Otherwise their variables
    would count as set by the user here, and would win over what the file says by then; and in the folder to which an
    agent has changed, other settings would be found, or none.
    """
    global _started_in  # noqa: PLW0603  # the one folder in which this process was started
    _started_with.clear()
    _started_with.update(os.environ)
    _started_in = Path.cwd()


async def why_not(hosts: Sequence[str] = ()) -> str | None:
    """Find out, in a new process, why it could not do its work; None if it could. Its sockets listen at these hosts."""
    if not hasattr(os, "fork"):
        return "this system cannot hand sockets over; stop it and start it again"
    if sys.argv[1:2] not in ([name] for name in _COMMANDS):
        return "it was started by another program, which can stop it and start it again"
    environ = {**_started_with, _LISTENS_AT: ",".join(hosts)} if hosts else _started_with
    command = [part for part in command_of_this("--check") if part != "--json"]  # that is only for starting
    try:
        tried = await tried_elsewhere(command, seconds=_CHECK_SECONDS, environ=environ, folder=_started_in)
    except OSError as exc:  # as where that folder is gone
        return f"it cannot be started in {_started_in} again: {exc.strerror}"
    if tried is None:
        return f"what it would restart with has not loaded in {_CHECK_SECONDS:g} s"
    return None if tried.returncode == 0 else _reason(tried.said)


def taken_over(environ: MutableMapping[str, str]) -> list[str]:
    """If a server had this process check: where that server listens, whatever its settings say. Hidden from agents."""
    return [host for host in environ.pop(_LISTENS_AT, "").split(",") if host]


def begin(sockets: Sequence[socket.socket]) -> NoReturn:
    """Become the new process. Everything except these sockets must be closed."""
    from trackside.app.server.sockets import hand_over

    environ = dict(_started_with)
    hand_over(sockets, environ)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the new process handles it: another SIGHUP now would end it
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    if _started_in is not None:
        os.chdir(_started_in)
    command = command_of_this()
    os.execve(command[0], command, environ)  # noqa: S606  # this program, as it was typed


def command_of_this(*more: str) -> list[str]:
    """The command that started this process, with further options."""
    interpreter = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    return [sys.executable, *interpreter, sys.argv[1], *more, *sys.argv[2:]]


def _reason(said: bytes) -> str:
    lines = said[-_MOST_SAID:].decode(errors="replace").split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line.strip()] or ["it says nothing"])[-1].removeprefix("error: ")
