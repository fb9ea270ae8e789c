"""A fixed amount of work, for `instructions` to count: a process of its own, which imports no more than it needs.

python _counted.py WHAT COUNT
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from _rounds import Work

from trackside import CompositeObserver, NullObserver
from trackside.testing.events import make_event


def dispatch(observers: int) -> AbstractAsyncContextManager[Work]:
    """One event to so many observers that do nothing."""
    composite, event = CompositeObserver([NullObserver() for _ in range(observers)]), make_event()

    async def work(count: int) -> None:
        for _ in range(count):
            await composite.on_event(event)

    return nullcontext(work)


def append(producers: int) -> AbstractAsyncContextManager[Work]:
    """Events into a new file of SQLite's, as in the benchmark of this name."""
    from _databases import SqliteFiles
    from append import stored

    return stored(SqliteFiles(), producers)


WORKS: Mapping[str, Callable[[], AbstractAsyncContextManager[Work]]] = {
    "dispatch-1": partial(dispatch, 1),
    "dispatch-4": partial(dispatch, 4),
    "append-1": partial(append, 1),
    "append-16": partial(append, 16),
}


async def main(what: str, count: int) -> None:
    async with WORKS[what]() as work:
        gc.disable()  # when it comes depends on what was done before, which is not what is counted
        await work(count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
