"""From a run that has ended to the attempt that continues it, and what stops that, however runs are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Protocol

from trackside.harness.errors import Fault, TracksideError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus


class AskedSinceError(TracksideError):
    """Run {run_id!r} brought an answer, and its thread {thread_id!r} has asked something else since, in run {asked_by!r}: answer that with a run of its own."""  # noqa: E501

    fault: ClassVar[Fault] = "caller"


class ReadsQuestions(Protocol):
    """A log that knows what runs have asked."""

    async def asked_since(self, run_id: str) -> str | None:
        """The run by which a run's thread has asked something since that run was let in; it may be that run itself."""
        ...


class AnyRun(Protocol):
    """A run, in the form in which the caller has it."""

    @property
    def status(self) -> RunStatus:
        """How it stands."""
        ...


type After[R] = Callable[[R], Awaitable[R | None]]
"""Finds the run that continues a run; None: the run has not ended, nothing continues it, or the other run is gone."""


def named_in(says: Mapping[str, Any]) -> str | None:
    """The id of the run that continues one whose last event says this; None: nothing continues it."""
    again = says.get("retried_as")
    return None if again is None else str(again)


async def check_that_it_answers(
    store: ReadsQuestions, run_id: str, request: Mapping[str, Any], *, thread_id: str
) -> None:
    """Check that the answer a run has brought, if any, is given once more only to what it was given to.

    Raises:
        AskedSinceError: its thread has asked something since, itself or by this run.
    """
    if "resume" not in (request.get("command") or {}):
        return
    if (asked_by := await store.asked_since(run_id)) is not None:
        raise AskedSinceError(run_id=run_id, thread_id=thread_id, asked_by=asked_by)


async def last_attempt[R: AnyRun](run: R, after: After[R]) -> R:
    """The run or, if it has ended, the last attempt that continues it."""
    while is_final(run.status) and (again := await after(run)) is not None:
        run = again
    return run


async def stopped[R: AnyRun](run: R, after: After[R], stop: Callable[[R], Awaitable[object]]) -> R:
    """Stop a run, or the last attempt that continues it; returns which, as it was. One that has ended is left alone."""
    run = await last_attempt(run, after)
    while not is_final(run.status):
        await stop(run)
        again = await after(run)  # it may have ended just before
        if again is None:
            break
        run = await last_attempt(again, after)
    return run
