"""Which run of a manager waits for which, so that none waits for what can only come when it has ended itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from trackside.harness.errors import WaitsForItselfError
from trackside.harness.observer import RunResult
from trackside.harness.outcome import Outcome
from trackside.harness.types import MultitaskStrategy, RunRecord
from trackside.harness.worker import RunWorker


class _Wait(NamedTuple):
    own: RunWorker
    awaited: RunRecord
    outcome: Outcome

    @property
    def is_over(self) -> bool:
        return self.outcome.settled or self.own.is_ending


class Waits:
    """The waits of a manager's runs for the results of others.

    Args:
        caller: gives the run at work that the calling code belongs to, if there is one.
    """

    def __init__(self, caller: Callable[[], RunWorker | None]) -> None:
        self._caller = caller
        self._by_thread: dict[str, dict[object, _Wait]] = {}
        """By the thread of the run that waits: those that are behind it there need the same."""

    async def result_of(self, awaited: RunRecord, outcome: Outcome) -> RunResult:
        """The result of a run, for the calling code.

        Raises:
            WaitsForItselfError: as `check_turn`.
            NoResultHereError, ManagerLoopError: as `Outcome.wait`.
        """
        own = None if outcome.settled else self._caller()
        if own is None:
            return await outcome.wait()
        self._check(own, awaited)
        with self._under_way(_Wait(own, awaited, outcome)):
            return await outcome.wait()

    def check_turn(self, awaited: RunRecord) -> None:
        """See that the calling code does not wait for a run that cannot end before the run that the code belongs to.

        Args:
            awaited: one that has not ended.

        Raises:
            WaitsForItselfError: it would: for its own run, for one that is behind it on their thread, or for one that waits,
                through whatever others, for one of these.
        """
        if (own := self._caller()) is not None:
            self._check(own, awaited)

    def _check(self, own: RunWorker, awaited: RunRecord) -> None:
        record, seen = own.record, {awaited.run_id}
        needed = [awaited]
        while needed:
            one = needed.pop()
            if one.run_id == record.run_id or (one.thread_id == record.thread_id and _queues(one)):
                who = "itself" if one.run_id == record.run_id else "the next of the same thread"
                who = who if one is awaited else "waiting for this run through others"
                raise WaitsForItselfError(run_id=record.run_id, awaited=awaited.run_id, who=who)
            for other in self._needed_by(one):
                if other.run_id not in seen:
                    seen.add(other.run_id)
                    needed.append(other)

    def _needed_by(self, run: RunRecord) -> Iterator[RunRecord]:
        """The runs that have to end before this one: those for which it waits, or the run before it on its thread does."""
        for wait in [*self._by_thread.get(run.thread_id, {}).values()]:  # a copy: another event loop may ask, too
            if not wait.is_over and (wait.own.record.run_id == run.run_id or _queues(run)):
                yield wait.awaited

    @contextmanager
    def _under_way(self, wait: _Wait) -> Generator[None]:
        thread_id, key = wait.own.record.thread_id, object()
        waits = self._by_thread.setdefault(thread_id, {})
        waits[key] = wait
        try:
            yield
        finally:
            del waits[key]
            if not waits:
                self._by_thread.pop(thread_id, None)


def _queues(run: RunRecord) -> bool:
    return run.multitask is MultitaskStrategy.enqueue  # others have those before them make room
