"""What a run has had written and did not wait for: its end waits for all of it.

A step of a run need not wait until what it leaves behind is on disk, as long as nobody is told of the run's end before
that. So whoever executes the run lets its writes settle (`Settling`), and whoever writes for it checks whether that is
so (`current_settling`): if not, each write is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from trackside.harness.context import current_run
from trackside.harness.running.steady import finish

_current: ContextVar[Settling | None] = ContextVar("trackside_settling", default=None)


def current_settling() -> Settling | None:
    """What the calling code may leave its writes to; None: it has to wait for each of them."""
    settling = _current.get()
    if settling is None or settling.has_settled:
        return None
    run = current_run()  # which may be one that a step of the other run has started
    return settling if run is not None and run.run_id == settling.run_id else None


class Unsettled(Protocol):
    """What one writer has accepted for one run."""

    async def settle(self, is_hurried: Callable[[], bool]) -> None:
        """Return when all of it is written. May be called again.

        A caller that `is_hurried`, perhaps only while this waits, does not wait for a database that is away.

        Raises:
            Exception: some of it could not be written.
        """
        ...


class Settling:
    """The writes of one run. Belongs to the event loop in which the run is executed."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.has_settled = False
        """Whether the run has come to its end: nobody would wait for what is written now."""
        self._unsettled: dict[object, Any] = {}

    def begin(self) -> None:
        """Let this task, and the tasks that it starts, leave their writes to this from now on."""
        _current.set(self)

    def of[U: Unsettled](self, writer: object, make: Callable[[], U]) -> U:
        """What this writer has accepted for the run; made when it is first asked for."""
        found: U | None = self._unsettled.get(writer)
        if found is None:
            found = self._unsettled[writer] = make()
        return found

    async def settle(self, *, hurried: bool = False) -> None:
        """Wait until all is written, even if the caller is cancelled: `current_task().cancelling()` remembers it (I17).

        A database that is away is waited for, but not if the wait is `hurried`, or once somebody cancels the caller.

        Raises:
            Exception: what could not be written was refused with this; if there are several, the first.
        """
        self.has_settled = True
        caller = asyncio.current_task()
        assert caller is not None
        cancels = caller.cancelling()
        failure: Exception | None = None
        for unsettled in [*self._unsettled.values()]:
            settle = partial(unsettled.settle, lambda: hurried or caller.cancelling() > cancels)
            try:
                await finish(settle, name="settle")
            except Exception as exc:  # noqa: BLE001  # a store's failure: the others' are waited for, then it is told
                failure = failure or exc
        if failure is not None:
            raise failure
