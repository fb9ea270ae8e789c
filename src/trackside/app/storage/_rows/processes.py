"""Whether a process on this machine still lives, so that nobody has to wait for its lease to end.

On Linux, `/proc` says when a process started; its number alone may have gone to another process since. Elsewhere, and
about processes of other machines and containers, nothing is known, and the lease decides.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from trackside.app.storage._rows.leases import LeaseClock, boot_id, seconds_left, seconds_since_given

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat behind the name, see proc_pid_stat(5)


def this_process() -> str | None:
    """A name for this process that no other ever has, not even after a restart; None if there is no way to tell."""
    started = _start_of(os.getpid())
    return None if started is None else f"{_place()}/{os.getpid()}/{started}"


def is_gone(process: str | None) -> bool:
    """Whether the process of this name was one of this machine, and is no more."""
    if process is None:
        return False
    place, _, rest = process.rpartition("/")
    place, _, number = place.rpartition("/")
    if place != _place() or not number.isdigit():
        return False
    started = _start_of(int(number))
    return started != rest and not (started is None and _is_hidden(int(number)))


def seconds_alive(worker: Any, now: LeaseClock) -> float:
    """How long the lease in a worker's row still counts: 0 also if its process is known to be gone."""
    return 0.0 if is_gone(worker.process) else seconds_left(worker, now)


def last_seen_at(worker: Any, now: LeaseClock) -> datetime:
    """About when the process in a worker's row gave its last sign of life: each renews its lease, which has a length of
    its own.
    """
    here = datetime.now(UTC)
    silent = seconds_since_given(worker, now)
    seen: datetime = worker.started_at
    return min(here, seen if silent is None else max(seen, here - timedelta(seconds=silent)))


def _place() -> str:
    return f"{boot_id()}/{_pid_namespace()}"


@cache
def _pid_namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return "?"


def _is_hidden(pid: int) -> bool:
    """Whether this is another user's process, about which `/proc` may say nothing (`hidepid`, `ProtectProc=`)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _start_of(pid: int) -> str | None:
    """When a process started, in the system's own unit; None if it has ended, or nobody can tell."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].decode("ascii").split()  # its name may be cut in the middle of a letter
    return None if fields[_STATE] in {"Z", "X"} else fields[_STARTED]
