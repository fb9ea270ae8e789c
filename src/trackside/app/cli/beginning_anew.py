"""Replaces the process of a server or worker by a new one of the same command: the same process id, the same sockets."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from trackside.app.wiring.elsewhere import tried_elsewhere

_COMMANDS: Final = ("serve", "worker")
_CHECK_SECONDS: Final = 120.0
_MOST_SAID: Final = 65_536


async def why_not() -> str | None:
    """Why a new process could not do its work, found out in one; None if it could."""
    if not hasattr(os, "fork"):
        return "this system cannot hand sockets over; stop it and start it again"
    if sys.argv[1:2] not in ([name] for name in _COMMANDS):
        return "it was started by another program, which can stop it and start it again"
    tried = await tried_elsewhere(command_of_this("--check"), seconds=_CHECK_SECONDS)
    if tried is None:
        return f"what it would begin with has not loaded in {_CHECK_SECONDS:g} s"
    return None if tried.returncode == 0 else _reason(tried.said)


def begin(sockets: Sequence[socket.socket]) -> NoReturn:
    """Become the new process. Everything has to be closed but these sockets."""
    from trackside.app.server.sockets import hand_over

    hand_over(sockets, os.environ)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the new one takes it: else another one now would end it
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    command = command_of_this()
    os.execv(command[0], command)  # noqa: S606  # this program, as it was typed


def command_of_this(*more: str) -> list[str]:
    """How this process was started, with more of the options of its command."""
    interpreter = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    return [sys.executable, *interpreter, sys.argv[1], *more, *sys.argv[2:]]


def _reason(said: bytes) -> str:
    lines = said[-_MOST_SAID:].decode(errors="replace").split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line.strip()] or ["it says nothing"])[-1].removeprefix("error: ")
