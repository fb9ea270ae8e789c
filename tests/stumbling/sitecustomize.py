"""Makes the event loops and thread pools of every Python process stumble, as on a machine that others use, too.

`./scripts/test --stumble` has Python import this first, in each process that a test starts. What fails then and not
otherwise depends on how fast a machine is. Sleeping costs no CPU time, so several such runs fit beside one another.

`STUMBLE_SEED` decides when, with the process's id: any text, which repeats no run, as nobody chooses ids. Without it, this
does nothing. It has no name of Trackside's own, as tests keep the settings of whoever runs them from their processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from random import Random
from time import sleep  # as it is now: tests replace `time.sleep` to see that nobody calls it
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

SHORT: Final = (0.02, 0.1)
LONG: Final = (0.001, 1.0)
"""How probable it is in a turn of a loop or before a job of a pool, and how many seconds it takes at most. Not more than
one: from then on Trackside says that the loop stands still, and is right."""

UVLOOP_TURN: Final = 0.02
"""A loop of uvloop does not tell of its turns. It stumbles in calls of its own, at most so many seconds apart."""


class Stumbling:
    """Stands still at times.

    Args:
        seed: what decides when; each process has times of its own.
    """

    def __init__(self, seed: str) -> None:
        self.sleep = sleep
        self._seed(seed)
        os.register_at_fork(after_in_child=lambda: self._seed(seed))

    def _seed(self, seed: str) -> None:
        self._random = Random(f"{seed} {os.getpid()}")

    def stumble(self) -> None:
        """Perhaps stand still for a moment."""
        drawn = self._random.random()
        for probability, seconds in (LONG, SHORT):
            if drawn < probability:
                self.sleep(self._random.random() * seconds)
                return
            drawn -= probability

    def before(self, does: Callable[..., Any]) -> Callable[..., Any]:
        """A method that may stumble before it does what this one does."""

        def late(*args: Any, **named: Any) -> Any:
            self.stumble()
            return does(*args, **named)

        return late

    def keep_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stumble in this loop again and again."""
        self.stumble()
        loop.call_later(self._random.random() * UVLOOP_TURN, self.keep_on, loop)


class FindsUvloop(MetaPathFinder):
    """Has uvloop make loops that stumble, once somebody imports it.

    Args:
        stumbling: how they do.
    """

    def __init__(self, stumbling: Stumbling) -> None:
        self._stumbling = stumbling

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where uvloop is, and how it is changed when it has been loaded; None for everything else."""
        if fullname != "uvloop":
            return None
        sys.meta_path.remove(self)
        found = find_spec(fullname)
        if found is not None and found.loader is not None:
            found.loader = LoadsUvloop(found.loader, self._stumbling)
        return found


class LoadsUvloop(Loader):
    """Loads uvloop as another loader does, and has its loops stumble."""

    def __init__(self, loader: Loader, stumbling: Stumbling) -> None:
        self._loader = loader
        self._stumbling = stumbling

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module, as the other loader makes it."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load it, and change how it makes loops."""
        self._loader.exec_module(module)
        new_event_loop = module.new_event_loop

        def new_stumbling_loop() -> asyncio.AbstractEventLoop:
            loop: asyncio.AbstractEventLoop = new_event_loop()
            loop.call_soon(self._stumbling.keep_on, loop)
            return loop

        module.new_event_loop = new_stumbling_loop  # type: ignore[attr-defined]


def begin(seed: str) -> Stumbling:
    """Have all loops and pools of this process stumble from now on."""
    from asyncio.base_events import BaseEventLoop
    from concurrent.futures.thread import _WorkItem

    stumbling = Stumbling(seed)
    BaseEventLoop._run_once = stumbling.before(BaseEventLoop._run_once)  # type: ignore[attr-defined]
    _WorkItem.run = stumbling.before(_WorkItem.run)  # type: ignore[method-assign]
    sys.meta_path.insert(0, FindsUvloop(stumbling))
    return stumbling


if given := os.environ.get("STUMBLE_SEED"):
    STUMBLING = begin(given)
