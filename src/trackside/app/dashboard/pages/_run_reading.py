"""Asks the API what is known about a run: it and its end, the runs around it, what its thread kept, who was told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from trackside.app import attempts
from trackside.app.dashboard.declaring import API
from trackside.app.dashboard.pages._answering import closed_questions, waiting_run
from trackside.app.dashboard.pages._timeline import Happened, Ran
from trackside.app.dashboard.questions import STOP, questions_of, stop_in
from trackside.app.server.calls import is_served
from trackside.app.server.failures import answer_of
from trackside.app.server.principal import Permission
from trackside.app.server.routes import events, records, states, subscriptions, threads
from trackside.app.server.routing import Call
from trackside.app.server.wire.agents import AgentInfo
from trackside.app.server.wire.log import LogEvent, RecordedRun, RunDetails
from trackside.harness.errors import TracksideError, UnknownRunError
from trackside.harness.lifecycle import TERMINAL_EVENTS, is_final
from trackside.harness.types import JsonObject, RunStatus, ThreadStatus

EVENTS_OF_PAGE: Final = 25
_DRAWN: Final = 200
_SHOWN_CHILDREN: Final = 200
"""How many of the runs that it started are shown, the newest."""

type AnyCall = Call[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known[T]:
    """What was found, or why it was not."""

    value: T
    why_not: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Some of a run's events, and where the next ones are."""

    events: Sequence[LogEvent]
    next_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The runs related to this one."""

    children: Sequence[RecordedRun]
    is_all: bool
    """Whether these are all the runs that it started."""
    earlier: RecordedRun | None
    """The run before it on the thread."""
    later: RecordedRun | None
    """The run after it, which may be the one that answered it."""
    latest: RecordedRun | None = None
    """The last run of the thread, if that is not this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known besides the run itself; parts that are unavailable are empty, and `missing` says why."""

    end: LogEvent | None
    drawn: Sequence[Happened]
    events: EventPage
    around: Around
    attempts: Sequence[RecordedRun]
    holder: RecordedRun | None
    agents: Mapping[str, AgentInfo]
    state: Known[Any]
    deliveries: Known[Any]
    open_questions: Known[frozenset[str] | None]
    missing: tuple[str, ...]


async def found_of(call: AnyCall, run: RunDetails, *, after: int) -> Found:
    """All that the page shows besides the run, asked for at once.

    Args:
        call: the request of the viewer.
        run: the run that is shown.
        after: the position after which the listed events begin.
    """
    nobody = Around(children=(), is_all=True, earlier=None, later=None)
    async with asyncio.TaskGroup() as group:

        def begun[T](asked: Coroutine[Any, Any, T], instead: T) -> asyncio.Task[Known[T]]:
            return group.create_task(_known(asked, instead), name=f"trackside-console-run-{run.run_id}")

        end = begun(end_of(call, run.run_id), None)
        drawn = begun(drawn_events(call, run.run_id), [])
        events_page = begun(page_of_events(call, run.run_id, after), EventPage(events=(), next_after=None))
        runs_around = begun(around(call, run), nobody)
        attempts = begun(attempts_of(call, run), [])
        holder = begun(holder_of_thread(call, run), None)
        agents = begun(agents_of(call), {})
        state = begun(state_after(call, run), None)
        deliveries = begun(deliveries_of(call, run), None)
        questions = begun(open_questions(call, run), None)
    shown = (end, events_page, runs_around, attempts, holder, agents)
    missing = dict.fromkeys(why for task in shown if (why := task.result().why_not) is not None)
    return Found(
        end=end.result().value,
        drawn=drawn.result().value,
        events=events_page.result().value,
        around=runs_around.result().value,
        attempts=attempts.result().value,
        holder=holder.result().value,
        agents=agents.result().value,
        state=state.result(),
        deliveries=deliveries.result(),
        open_questions=questions.result(),
        missing=tuple(missing),
    )


async def _known[T](asked: Coroutine[Any, Any, T], instead: T) -> Known[T]:
    try:
        return Known(value=await asked)
    except TracksideError as exc:
        return Known(value=instead, why_not=answer_of(exc).detail)


async def details_of(call: AnyCall, run_id: str) -> RunDetails:
    """The run.

    Raises:
        UnknownRunError: there is no such run that the viewer may see.
    """
    found: RunDetails = (await API.ask(call, records.get_recorded_run, path={"run_id": run_id})).value
    return found


async def end_of(call: AnyCall, run_id: str) -> LogEvent | None:
    """The run's terminal event; None if it has not ended."""
    query = {"run_id": run_id, "type": sorted(TERMINAL_EVENTS), "newest_first": True, "limit": 1}
    found = (await API.ask(call, events.list_events, query=query)).value
    return found[0] if found else None


async def next_attempt(call: AnyCall, run: RunDetails) -> RunDetails | None:
    """The run as which a run goes on; None if it has not ended, or does not go on.

    Raises:
        UnknownRunError: that run was removed.
    """
    end = await end_of(call, run.run_id)
    again = None if end is None else attempts.named_in(end.payload)
    return None if again is None else await details_of(call, again)


async def last_attempt(call: AnyCall, run: RunDetails) -> RunDetails:
    """The run, or if it has ended, the last attempt as which it goes on, among those that still exist."""

    async def after(one: RunDetails) -> RunDetails | None:
        try:
            return await next_attempt(call, one)
        except UnknownRunError:
            return None

    return await attempts.last_attempt(run, after)


async def page_of_events(call: AnyCall, run_id: str, after: int) -> EventPage:
    """The run's events after a position."""
    query = {"run_id": run_id, "after": after, "limit": EVENTS_OF_PAGE}
    found = await API.ask(call, events.list_events, query=query)
    following = found.headers.get("X-Pagination-Next")
    return EventPage(events=found.value, next_after=None if following is None else int(following))


async def drawn_events(call: AnyCall, run_id: str) -> list[Happened]:
    """The run's first events, as far as they are drawn."""
    found = (await API.ask(call, events.list_events, query={"run_id": run_id, "limit": _DRAWN})).value
    return [Happened(name=event.event_type.value, at=event.occurred_at) for event in found]


async def around(call: AnyCall, run: RunDetails) -> Around:
    """The runs before and after it on its thread, and those that it started."""
    children, is_all = await _children(call, run)
    thread = {"thread_id": run.thread_id, "limit": 1}
    earlier = (await API.ask(call, records.list_recorded_runs, query={**thread, "before": run.cursor})).value
    later = (await API.ask(call, records.list_recorded_runs, query={**thread, "after": run.cursor})).value
    latest = (await API.ask(call, records.list_recorded_runs, query=thread)).value if later else []
    return Around(
        children=children,
        is_all=is_all,
        earlier=earlier[0] if earlier else None,
        later=later[0] if later else None,
        latest=latest[0] if latest else None,
    )


async def _children(call: AnyCall, run: RunDetails) -> tuple[list[RecordedRun], bool]:
    """The runs that it started, oldest first, and whether these are all."""
    query = {"parent_run_id": run.run_id, "limit": _SHOWN_CHILDREN}
    found = await API.ask(call, records.list_recorded_runs, query=query)
    return found.value[::-1], "X-Pagination-Next" not in found.headers


async def holder_of_thread(call: AnyCall, run: RunDetails) -> RecordedRun | None:
    """The run that a pending run waits for, because it has the thread."""
    if run.status is not RunStatus.pending:
        return None
    query = {"thread_id": run.thread_id, "status": [RunStatus.running.value], "limit": 1}
    found = (await API.ask(call, records.list_recorded_runs, query=query)).value
    return found[0] if found and found[0].run_id != run.run_id else None


async def attempts_of(call: AnyCall, run: RunDetails) -> list[RecordedRun]:
    """The run that it repeats, and those that repeat it, as far as they still exist."""
    found: list[RecordedRun] = []
    for run_id in [*([run.retry_of] if run.retry_of else []), *run.retries[:10]]:
        try:
            found.append(await details_of(call, run_id))
        except TracksideError:  # it was removed, which does not matter here
            continue
    return found


async def agents_of(call: AnyCall) -> Mapping[str, AgentInfo]:
    """The agents that are served, by name."""
    return {agent.name: agent for agent in (await API.ask(call, records.list_agents)).value}


async def state_after(call: AnyCall, run: RunDetails) -> Any:
    """The state of the thread at the end of the run; None if that is not kept."""
    if not is_final(run.status):
        return None
    body = {"limit": 1, "metadata": {"run_id": run.run_id}}
    found = (await API.ask(call, states.search_history, path={"thread_id": run.thread_id}, body=body)).value
    return found[0] if found else None


async def open_questions(call: AnyCall, run: RunDetails) -> frozenset[str] | None:
    """The ids of the questions that the run's thread still waits for, or of the stop at which it stands, and that no
    run answers yet; None if the run has asked nothing.
    """
    if run.status is not RunStatus.interrupted:
        return None
    if not is_served(run.thread_id):  # the API does not tell its state
        waiting, end = await waiting_run(call, run.thread_id), await end_of(call, run.run_id)
        if waiting is None or waiting.run_id != run.run_id or end is None:
            return frozenset()
        return frozenset(one.id for one in questions_of(end.payload.get("interrupts")) if one.id is not None)
    path = {"thread_id": run.thread_id}
    query = {"select": ["interrupts", *STOP["select"]]}
    state = (await API.ask(call, states.get_state, path=path, query=query)).value
    waits: Sequence[JsonObject] = state.get("interrupts") or ()
    if not waits and (stop := stop_in(state)) is not None:
        thread = (await API.ask(call, threads.get_thread, path=path)).value
        waits = [stop] if thread.status == ThreadStatus.interrupted else ()  # a failed thread is also before a step
    asked = frozenset(str(one.get("id")) for one in waits)
    return asked - await closed_questions(call, run.thread_id, asked) if asked else asked


async def deliveries_of(call: AnyCall, run: RunDetails) -> Any:
    """What each subscription did with the run's events; None if the viewer may not know."""
    if not call.principal.may(Permission.admin):
        return None
    return (await API.ask(call, subscriptions.list_deliveries, path={"run_id": run.run_id})).value


def ran(run: RecordedRun) -> Ran:
    """The run in the timeline's form."""
    has_ended = is_final(run.status)
    return Ran(
        run_id=run.run_id,
        agent=run.agent or "?",
        status=run.status.value,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        duration_seconds=run.duration_seconds if has_ended else None,
        input_tokens=run.total_input_tokens if has_ended else None,
        output_tokens=run.total_output_tokens if has_ended else None,
        cost=run.cost_usd,
        error=run.error_type if run.status is RunStatus.error else None,
    )


def now() -> datetime:
    """The server's time."""
    return datetime.now(UTC)
