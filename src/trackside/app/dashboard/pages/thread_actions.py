"""What can be done with a thread from its page, and wherever its questions are shown."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from trackside.app.dashboard.asking import value_or_why
from trackside.app.dashboard.cutting import json_text
from trackside.app.dashboard.declaring import API, Form, action
from trackside.app.dashboard.filters import typed_number
from trackside.app.dashboard.pages._answering import closed_questions
from trackside.app.dashboard.questions import (
    ANSWERED,
    STOP,
    Answers,
    answers_of,
    questions_of,
    request_of,
    stop_in,
    value_of,
)
from trackside.app.dashboard.rendering import Said
from trackside.app.server.failures import HttpError
from trackside.app.server.responses import json_reply
from trackside.app.server.routes import events, records, runs, states, threads
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.threads import GRAPH
from trackside.harness.errors import ThreadBusyError
from trackside.harness.questions import stops_said
from trackside.harness.types import LifecycleEventType, ThreadStatus

routes = Routes("Console")

_LOOKS: Final = 5
"""How often, at most, to look at a thread that changes during the look."""


class Fork(Form, kw_only=True):
    """Where a run begins anew, and with what."""

    checkpoint_id: str
    input: str = ""


class Change(Form, kw_only=True):
    """What is changed of a thread."""

    metadata: str = ""
    ttl: str = ""


@action(routes, "/ui/threads/{thread_id}/answer", body=Answers)
async def answer_thread(call: Call[Answers, None]) -> Any:
    """Answer what a thread waits for, and go on with it. Of all who answer the same question, one is the first."""
    while True:
        agent, answers, request = await _answered(call)
        if not call.body.starts:
            asked = {name: json_text(value) for name, value in request.items()}
            return json_reply({"request": asked, "answers": [json_text(answer) for answer in answers.values()]})
        try:
            run = (await API.ask(call, runs.create_run, body={"assistant_id": agent, **request})).value
        except ThreadBusyError:  # busy since the look: look again at what is open
            continue
        return Said(f"Answered: it goes on as run …{run.run_id[-8:]}.")


async def _answered(call: Call[Answers, None]) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """The agent of a thread, the answers to what it asks, and the request for the run that goes on with them.

    Raises:
        HttpError: they are invalid, or no longer asked for: a run that has the thread, or waits for it, already
            brings one.
    """
    looks = 0
    while True:
        thread = (await API.ask(call, threads.get_thread)).value
        asked = [one for interrupts in thread.interrupts.values() for one in interrupts if one.get("id") is not None]
        open_ids = {str(one["id"]) for one in asked}
        is_free, looks = thread.status != ThreadStatus.busy, looks + 1
        closed = frozenset[str]() if is_free else await closed_questions(call, call.thread_id, open_ids)
        if is_free or closed or not asked or looks == _LOOKS:
            break  # otherwise the run that had the thread has just ended
    open_ids -= closed
    stops: dict[str, Any] | None = None
    if not open_ids and thread.status == ThreadStatus.interrupted:
        state = (await API.ask(call, states.get_state, query=STOP)).value
        open_ids = {one.id for one in questions_of([stop_in(state)]) if one.id is not None}
        stops = await _own_stops(call, (state["metadata"] or {}).get("run_id"))
    if not open_ids:
        raise HttpError(status=409, detail=ANSWERED)
    answers = answers_of(call.body, open_ids, {str(one["id"]): one.get("value") for one in asked})
    return (thread.metadata or {}).get(GRAPH), answers, request_of(answers, stops=stops, is_first=is_free)


async def _own_stops(call: Call[Any, Any], run_id: Any) -> dict[str, Any]:
    """Where a run was asked to stop, besides where its graph stops by itself."""
    if not isinstance(run_id, str):  # somebody has changed the state
        return {}
    query = {"run_id": run_id, "type": [LifecycleEventType.RUN_COMPLETED.value], "newest_first": True, "limit": 1}
    ends, _ = await value_or_why(call, events.list_events, query=query)  # events remain even if the run was deleted
    for stop in (ends[0].payload.get("interrupts") if ends else None) or ():
        if stops := stops_said(stop):
            return stops
    run, _ = await value_or_why(call, records.get_recorded_run, path={"run_id": run_id})
    return stops_said((None if run is None else run.request) or {})  # the only place in an earlier release


@action(routes, "/ui/threads/{thread_id}/fork", body=Fork)
async def fork_thread(call: Call[Fork, None]) -> Any:
    """Start a run from a checkpoint of a thread; what came after that stays in the history."""
    given = call.body
    thread = (await API.ask(call, threads.get_thread)).value
    agent = (thread.metadata or {}).get(GRAPH)
    if agent is None:
        raise HttpError(status=409, detail="this thread has no run yet, so it has no agent that could go on")
    body = {
        "assistant_id": agent,
        "input": _input(given.input) if given.input.strip() else None,
        "checkpoint_id": given.checkpoint_id,
    }
    await API.ask(call, runs.create_run, body=body)
    return Said(
        f"Forked: a new run started from checkpoint …{given.checkpoint_id[-8:]}.", to=f"/ui/threads/{call.thread_id}"
    )


def _input(text: str) -> Any:
    """An object as it is; anything else becomes a human message."""
    value = value_of(text)
    return value if isinstance(value, dict) else {"messages": [{"role": "user", "content": text}]}


@action(routes, "/ui/threads/{thread_id}/copy", body=Form)
async def copy_thread(call: Call[Form, None]) -> Any:
    """Make another thread that remembers the same."""
    copied = (await API.ask(call, threads.copy_thread)).value
    return Said("Copied: this is the new thread, without the runs.", to=f"/ui/threads/{copied.thread_id}")


@action(routes, "/ui/threads/{thread_id}/delete", body=Form)
async def delete_thread(call: Call[Form, None]) -> Any:
    """Remove a thread."""
    await API.ask(call, threads.delete_thread)
    return Said("Thread deleted.", to="/ui/threads")


@action(routes, "/ui/threads/{thread_id}/change", body=Change)
async def change_thread(call: Call[Change, None]) -> Any:
    """Add metadata, and say anew how long the thread lives."""
    given, change = call.body, dict[str, Any]()
    if given.metadata.strip():
        try:
            change["metadata"] = msgspec.json.decode(given.metadata, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as exc:
            raise HttpError(status=422, detail=f"metadata: this is not a JSON object ({exc})") from exc
    if given.ttl.strip():
        change["ttl"] = _minutes(given.ttl)
    if not change:
        raise HttpError(status=422, detail="nothing to change: write metadata or minutes")
    await API.ask(call, threads.update_thread, body=change)
    return Said("The thread is changed.")


def _minutes(typed: str) -> float:
    """The minutes that somebody has typed.

    Raises:
        HttpError: that is not a number.
    """
    minutes = typed_number(typed)
    if not math.isfinite(minutes):
        raise HttpError(status=422, detail=f"{typed!r:.80} is not a number of minutes")
    return minutes
