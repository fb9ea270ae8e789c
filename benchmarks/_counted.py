"""Pieces of work for `instructions` to count, one after another, in a process of its own.

    python _counted.py SHARE KIND

Each piece of this kind is done this share of the times that it names, between two marks. A mark is a call of a
C library function that nothing else calls, at which callgrind counts anew. It is done for a while first, to warm up.
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
from memory_runs import MANAGED, WAYS

from trackside import CompositeObserver, NullObserver
from trackside.testing.events import make_event

MARK = "sched_get_priority_max"
_FOR_EVER = 1e6  # seconds
BLOCKS = range(1, 480, 16)
"""Bytes that take a block of each size from 48 on that Python's own allocator has: what comes next finds other ones."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A piece of work: dispatch to this many observers, appends by this many producers, or this many runs at once in
    memory, without an observer, with a required one or with an optional one.
    """

    words: str
    kind: str
    size: int
    times: int
    tolerance: float = 0.02
    """How much more than in the baseline it may take, as a share."""
    parts: int = 1
    """In how many parts it is counted, of which the least counts."""

    def times_of(self, share: float) -> int:
        """How often to do it in each part."""
        return max(self.size, round(self.times * share) // self.parts)


# A piece that takes and gives back one block of memory each time may find that it is the last of its pool, which Python's
# allocator puts in another list each time: 98 instructions, or 4 % of a dispatch, by chance. So that is counted in parts.
# Where one thread works, or waits for the other, counts differ by less than 1 %. With 16 producers the threads overlap,
# and chance decides how many events a commit takes along: the same code took between 302,000 and 322,000 for one, on a
# disk and in memory. Alone in its commit it takes 824,000, and in one of seven 15 % more than in one of sixteen.
WORKS: Sequence[Counted] = (
    Counted("CompositeObserver.on_event, 1 observer", "dispatch", 1, 60_000, parts=4),
    Counted("CompositeObserver.on_event, 4 observers", "dispatch", 4, 60_000, parts=4),
    Counted("RunManager in memory, 32 runs at once", "run", 32, 9_600),
    Counted("the same with a required observer", "required", 32, 3_200),
    Counted("the same with an optional observer", "optional", 32, 3_200),
    Counted("Store.append on SQLite, 1 producer", "append", 1, 600),
    Counted("Store.append on SQLite, 16 producers", "append", 16, 2_400, tolerance=0.15),
)


def mark() -> None:
    """Count what follows by itself."""
    os.sched_get_priority_max(os.SCHED_OTHER)


def dispatch(observers: int) -> AbstractAsyncContextManager[Work]:
    """One event to this many observers that do nothing."""
    composite, event = CompositeObserver([NullObserver() for _ in range(observers)]), make_event()

    async def work(count: int) -> None:
        for _ in range(count):
            await composite.on_event(event)

    return nullcontext(work)


def append(producers: int) -> AbstractAsyncContextManager[Work]:
    """Events into a new SQLite file, as in the benchmark of this name."""
    return stored(SqliteFiles(), producers)


KINDS: Mapping[str, Callable[[int], AbstractAsyncContextManager[Work]]] = {
    "dispatch": dispatch,
    "append": append,
    "run": WAYS[MANAGED[0]],
    "required": WAYS[MANAGED[1]],
    "optional": WAYS[MANAGED[2]],
}


def works_of(kind: str) -> Sequence[Counted]:
    """The pieces of a kind."""
    return [one for one in WORKS if one.kind == kind]


async def main(share: float, kind: str) -> None:
    gc.disable()  # when it runs depends on what was done before, which is not counted
    # Threads take turns when one waits, not by the clock: else chance decides how many events each commit takes along.
    sys.setswitchinterval(_FOR_EVER)
    for one in works_of(kind):
        times = one.times_of(share)
        async with KINDS[one.kind](one.size) as work:
            await work(max(one.size, times // 10))
            kept = []
            for _ in range(one.parts):
                kept.append([bytes(size) for size in BLOCKS])
                mark()
                await work(times)
                mark()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2]))
