"""How a worker's process for the runs of one place differs from a worker: it has a supervisor and ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, override

import msgspec

from trackside.app.cli.serving.worker_life import WorkerLife
from trackside.app.engine.children import BEAT, LEAST_GRACE, VARIABLE, Birth, ChildLimits, ChildStats
from trackside.app.settings import Settings

if TYPE_CHECKING:
    from trackside.app.engine.duties import Duties
    from trackside.app.engine.worker import FleetWorker
    from trackside.harness import RunManager

_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_RATHER_THAN_OTHERS: Final = "500"
"""How much the system should prefer this process when it kills one to free memory; see proc_pid_oom_score_adj(5)."""


class IsolatedLife(WorkerLife):
    """The life of such a process. Its supervisor decides when it begins anew; a SIGHUP from it means to finish."""

    _leaves_behind = False  # the supervisor ends the process then, and says why

    @override
    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self.finish, "its supervisor ends")


class Supervised:
    """What a process knows about its supervisor.

    Args:
        birth: what it was told when it was started.
    """

    def __init__(self, birth: Birth) -> None:
        self._isolated_in = birth.isolated_in
        self._parent = birth.parent
        self._socket = socket.socket(fileno=birth.descriptor)
        self._socket.set_inheritable(False)

    def settings(self, settings: Settings) -> Settings:
        """The settings of the worker for this place."""
        return settings_of_place(settings, self._isolated_in)

    def live_no_longer(self) -> None:
        """Have this process end when its supervisor does, whatever the agent is doing."""
        with suppress(OSError):  # a container may not allow it, and other systems have no such file
            Path("/proc/self/oom_score_adj").write_text(_RATHER_THAN_OTHERS, encoding="ascii")
        _die_with_parent()
        if os.getppid() != self._parent:  # the supervisor was already gone
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=self._watch, name="trackside-supervised", daemon=True).start()

    def report(self, worker: FleetWorker, manager: RunManager, duties: Duties, limits: ChildLimits) -> None:
        """Report by which limits this process stops runs.

        From now on, also report how the worker is doing, where the runs of its manager stand, and which duties it has.
        """
        loop = asyncio.get_running_loop()

        def tell(limits: ChildLimits | None = None) -> None:
            now = worker.stats()
            said = ChildStats(
                worker_id=worker.worker_id,
                running=now.running,
                executing=worker.executing,
                runs=manager.executed(),
                taken=now.taken_total,
                found=now.found_total,
                missed=now.missed_total,
                foreign=now.foreign_total,
                lost=now.lost_total,
                duties=tuple(duties.held),
                limits=limits,
            )
            with suppress(OSError):  # the supervisor hangs, or is gone
                self._socket.send(msgspec.json.encode(said) + b"\n", _WITHOUT_WAITING)

        def beat(limits: ChildLimits | None = None) -> None:
            tell(limits)
            loop.call_later(BEAT, beat)

        worker.on_change.append(tell)
        duties.on_look.append(tell)
        worker.on_outdated.append(lambda _: None)  # its supervisor also sees that, and ends it
        beat(limits)

    def _watch(self) -> None:
        """Wait until the supervisor is gone, and then end together with everything that the agent has started."""
        with suppress(OSError):
            self._socket.recv(1)
        os.killpg(0, signal.SIGKILL)


def settings_of_place(settings: Settings, isolated_in: str) -> Settings:
    """The settings of a worker for one of its places.

    A run that is reported as stuck is ended with its process, so a `stuck_after` below `LEAST_GRACE` counts as that.
    """
    worker = replace(settings.worker, concurrency=1, port=None, isolated_in=isolated_in)
    stopping = replace(settings.stopping, stuck_after=max(LEAST_GRACE, settings.stopping.stuck_after))
    return replace(settings, worker=worker, stopping=stopping)


def limits_by(settings: Settings) -> ChildLimits:
    """The limits by which a process stops runs, from these settings of its place."""
    stopping, default = settings.stopping, settings.default_limits
    return ChildLimits(
        grace=stopping.cancel_after + stopping.stuck_after,
        timeout=default.timeout,
        timeouts={agent: own.timeout for agent, own in settings.limits.items() if own.timeout != default.timeout},
    )


_WITHOUT_WAITING: Final = getattr(socket, "MSG_DONTWAIT", 0)


def supervised(environ: MutableMapping[str, str]) -> Supervised | None:
    """What this process knows about its supervisor; None if it has none. Processes that it starts do not see it."""
    told = environ.pop(VARIABLE, None)
    return None if told is None else Supervised(msgspec.json.decode(told, type=Birth))


def _die_with_parent() -> None:
    """Have the system end this process when the thread that started it has ended, even if it is busy in a library."""
    if sys.platform == "linux":
        import ctypes

        libc: Any = ctypes.CDLL(None)
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
