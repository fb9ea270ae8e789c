"""Named points at which a process kills itself, around the steps of the writer and the works that it writes.

A point is a step and a work: at "written Admit" a process dies when it has written an admission but not committed it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from crash_freezing import die

from trackside.app.storage._coordination import recovery
from trackside.app.storage._writing import work as work_module
from trackside.app.storage._writing import writer as writer_module
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.work import UnitOfWork
from trackside.app.storage._writing.writer import Writer
from trackside.harness.lifecycle import is_terminal

STEPS = ("before", "loaded", "written", "committed", "handed back")
WORKS = ("start", "end", "Admit", "Promote", "Withdraw", "RequestCancel", "Settle", "Register")
RARE_WORKS = ("message", "retried end", "NoteStuck", "SaveThreadState")
"""The works of runs that say something, are shut down, do not stop, or remember."""
RECOVERIES = ("Reap", "Adopt")
"""These count only when they find something, so there is no point before they have looked."""
RETRYING = "retrying Reap"
"""A `Reap` that starts runs anew."""
STEPS_OF_RECOVERY = ("written", "committed", "handed back")
PARTING = ("before", "written", "committed")
"""The points of `Leave`, which is written when a coordinator closes."""


class DeadlyPoint:
    """Ends or stops this process when it has reached a point this many times."""

    def __init__(self, step: str, work: str, number: int, *, end: Callable[[], object] = die) -> None:
        self._step = step
        self._work = work
        self._left = number
        self._end = end
        self._found: set[str] = set()
        """The names of the works in the transaction that is being written."""

    def install(self) -> None:
        """Watch all writers of this process from now on."""
        commit, hand_back, load, write = Writer._commit, Writer._hand_back, UnitOfWork.load, UnitOfWork.write

        def committing(writer: Writer, jobs: Sequence[Any]) -> Any:
            self._found = {*_names([job.work for job in jobs])}
            self._at("before", self._found)
            committed = commit(writer, jobs)
            self._at("committed", self._found)
            return committed

        def loading(unit: UnitOfWork, **options: Any) -> None:
            load(unit, **options)
            self._at("loaded", self._found)

        def writing(unit: UnitOfWork) -> None:
            write(unit)
            self._at("written", self._found)

        def handing_back(writer: Writer, jobs: Sequence[Any], committed: Any) -> None:
            hand_back(writer, jobs, committed)
            self._at("handed back", {*_names([job.work for job in jobs]), *_recoveries(committed.outcomes)})

        writer_module.Writer._commit = committing
        writer_module.Writer._hand_back = handing_back
        work_module.UnitOfWork.load = loading
        work_module.UnitOfWork.write = writing
        for kind in (recovery.Reap, recovery.Adopt):
            kind.apply = self._noting(kind.apply)

    def _noting(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        def noted(work: Any, unit: UnitOfWork) -> Any:
            outcome = apply(work, unit)
            self._found |= {*_recoveries([outcome])}
            return outcome

        return noted

    def _at(self, step: str, found: Collection[str]) -> None:
        if step == self._step and self._work in found:
            self._left -= 1
            if self._left == 0:
                self._end()


def _names(works: Sequence[Any]) -> Iterator[str]:
    for work in works:
        if isinstance(work, Append):
            kinds = {row.event.event_type for row in work.rows}
            yield from ["start"] * ("run_started" in kinds) + ["end"] * any(map(is_terminal, kinds))
            if kinds == {"human_message"}:
                yield "message"
            if any("retried_as" in row.event.payload for row in work.rows):
                yield "retried end"
        elif type(work).__name__ not in RECOVERIES:
            yield type(work).__name__


def _recoveries(outcomes: Sequence[Any]) -> Iterator[str]:
    for outcome in outcomes:
        if isinstance(outcome, recovery.Reaped) and (outcome.ended or outcome.orphaned):
            yield "Reap"
            if outcome.retries:
                yield RETRYING
        elif isinstance(outcome, recovery.Adoption) and outcome.adopted:
            yield "Adopt"
