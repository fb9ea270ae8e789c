"""Pieces of work for `instructions` to count, one after the other; a process of its own.

    python _counted.py SHARE

Each piece is done this share of the times that it says, and then twice as often, with a mark before, between and after: a
call of a function of the C library that nothing else calls, at which callgrind begins to count anew.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from _databases import SqliteFiles
from _rounds import Work
from append import stored
from memory_runs import managed

from trackside import CompositeObserver, NullObserver
from trackside.testing.events import make_event

MARK = "sched_get_priority_max"


@dataclass(frozen=True, slots=True)
class Counted:
    """A piece of work: dispatch to so many observers, appends by so many producers, or so many runs at once in memory."""

    words: str
    kind: str
    size: int
    times: int

    def times_of(self, share: float) -> int:
        """How often it is done first."""
        return max(self.size, round(self.times * share))


WORKS: Sequence[Counted] = (
    Counted("CompositeObserver.on_event, 1 observer", "dispatch", 1, 20_000),
    Counted("CompositeObserver.on_event, 4 observers", "dispatch", 4, 20_000),
    Counted("RunManager in memory, 32 runs at once", "run", 32, 3_200),
    Counted("Store.append on SQLite, 1 producer", "append", 1, 200),
    Counted("Store.append on SQLite, 16 producers", "append", 16, 800),
)


def mark() -> None:
    """Have what is counted from now on be counted by itself."""
    os.sched_get_priority_max(os.SCHED_OTHER)


def dispatch(observers: int) -> AbstractAsyncContextManager[Work]:
    """One event to so many observers that do nothing."""
    composite, event = CompositeObserver([NullObserver() for _ in range(observers)]), make_event()

    async def work(count: int) -> None:
        for _ in range(count):
            await composite.on_event(event)

    return nullcontext(work)


def append(producers: int) -> AbstractAsyncContextManager[Work]:
    """Events into a new file of SQLite's, as in the benchmark of this name."""
    return stored(SqliteFiles(), producers)


def run(at_once: int) -> AbstractAsyncContextManager[Work]:
    """Runs of an agent that does nothing, in waves of so many, and nobody who is told, as in `memory_runs`."""
    return managed(at_once, observers=tuple)


_KINDS: Mapping[str, Callable[[int], AbstractAsyncContextManager[Work]]] = {
    "dispatch": dispatch,
    "append": append,
    "run": run,
}


async def main(share: float) -> None:
    gc.disable()  # when it comes depends on what was done before, which is not what is counted
    for one in WORKS:
        times = one.times_of(share)
        async with _KINDS[one.kind](one.size) as work:
            await work(max(one.size, times // 4))
            mark()
            await work(times)
            mark()
            await work(2 * times)
            mark()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
