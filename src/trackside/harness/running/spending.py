"""What one run has used, against what it may use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from trackside.harness.budget import Budget
from trackside.harness.journal import Journal
from trackside.harness.running.ending import Stop
from trackside.harness.running.logs import fields_of
from trackside.harness.types import FailureReason, RunRecord, RunStatus

logger = logging.getLogger("trackside.worker")


class Spending:
    """A run's budget, if it has one, and its journal. May be asked from any thread."""

    __slots__ = ("_budget", "_journal", "_record", "_warned")

    def __init__(self, record: RunRecord, journal: Journal, budget: Budget | None) -> None:
        self._record = record
        self._journal = journal
        self._budget = budget
        self._warned = False

    def excess(self) -> Stop | None:
        """Why the run has to be stopped, if it has used more than it may."""
        if self._budget is None:
            return None
        if self._budget.max_cost_usd is not None and self._journal.unpriced and not self._warned:
            self._warned = True
            unpriced = self._journal.unpriced
            models = ", ".join(sorted(unpriced)) if self._journal.names_models else f"{len(unpriced)} of its models"
            warning = "run %s: max_cost_usd does not count calls without a price, of %s"
            logger.warning(warning, self._record.run_id, models, extra=fields_of(self._record))
        excess = self._budget.excess(self._journal.used())
        return None if excess is None else Stop(RunStatus.error, excess, failure=FailureReason.budget_exceeded)


class Deadline:
    """The time that a run may take (None: as long as it takes); none of it passes while it is held.

    What is called when it is over must not be kept here: it leads back to the worker, and an ended run would wait for
    the garbage collector.
    """

    __slots__ = ("_left", "_seconds", "_timer", "_until")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = self._left = seconds
        # Kept here, as a loop may make no timer for a moment: uvloop calls at once what is due within it.
        self._until = 0.0
        self._timer: asyncio.Handle | None = None

    def go_on(self, stop: Callable[[Stop], None]) -> None:
        """Let the time pass, and have the run stopped when it is over."""
        if self._left is not None:
            over = Stop(RunStatus.timeout, f"the run took longer than its timeout of {self._seconds:g} s")
            loop = asyncio.get_running_loop()
            self._until = loop.time() + self._left
            self._timer = loop.call_later(self._left, stop, over)

    def hold(self) -> None:
        """Let no time pass from now on."""
        if self._timer is not None:
            self._left = max(0.0, self._until - asyncio.get_running_loop().time())
            self._timer.cancel()
            self._timer = None


UNLIMITED: Final = Deadline(None)
"""The deadline of every run that may take as long as it takes."""
