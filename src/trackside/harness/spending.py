"""What one run has used, against what it may use."""

from __future__ import annotations

import logging

from trackside.harness.budget import Budget
from trackside.harness.ending import Stop
from trackside.harness.journal import Journal
from trackside.harness.logs import fields_of
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
        """Why the run shall be stopped, if it has used more than it may."""
        if self._budget is None:
            return None
        if self._budget.max_cost_usd is not None and self._journal.unpriced and not self._warned:
            self._warned = True
            models = ", ".join(sorted(self._journal.unpriced))
            warning = "run %s: max_cost_usd does not count calls without a price, of %s"
            logger.warning(warning, self._record.run_id, models, extra=fields_of(self._record))
        excess = self._budget.excess(self._journal.used())
        return None if excess is None else Stop(RunStatus.error, excess, failure=FailureReason.budget_exceeded)
