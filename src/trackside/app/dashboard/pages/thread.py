"""One thread: what was said in it, its runs, what it remembers and remembered before, and what it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from trackside.app.dashboard.asking import value_or_why
from trackside.app.dashboard.conversation import Conversation, conversation_in, spoken
from trackside.app.dashboard.declaring import API, page, params_of
from trackside.app.dashboard.difference import Difference, difference
from trackside.app.dashboard.folding import folded, short
from trackside.app.dashboard.pages._answering import closed_questions, waiting_run
from trackside.app.dashboard.pages._run_commands import answer_command
from trackside.app.dashboard.pages.nowhere import show_nothing
from trackside.app.dashboard.questions import STOP, Question, answers_read, questions_of, stop_in
from trackside.app.dashboard.rendering import Page
from trackside.app.server.calls import is_served
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.routes import events, records, states, thread_records, threads
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.threads import GRAPH
from trackside.harness.errors import UnknownThreadError
from trackside.harness.ids import is_uuid
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus

routes = Routes("Console")

VIEWS: Final = ("conversation", "state", "history")
SHOWN_RUNS: Final = 40
"""How many runs are in the strip."""

TURNS: Final = 10
"""How many runs are shown as a conversation if the agent does not remember one."""

SHOWN_CHECKPOINTS: Final = 20

type PageCall = Call[None, None]
type Given = Mapping[str, list[str]]


@page(routes, "/ui/threads/{name:path}")
async def show_path(call: PageCall) -> Any:
    """One thread that has slashes in its name."""
    return await _named(call, call.path["name"]) or await show_nothing(call)


@page(routes, "/ui/threads/{thread_id}")
async def show_thread(call: PageCall) -> Any:
    """One thread, in one of three views: the conversation, the state, or the history of states."""
    called = call.path["thread_id"]
    if (named := await _named(call, called)) is not None:
        return named
    try:
        thread = (await API.ask(call, threads.get_thread)).value
    except (HttpError, UnknownThreadError) as exc:
        if answer_of(exc).status not in {404, 422}:
            raise
        return Page("thread_gone", place="threads", status=404, thread_id=called, is_id=is_uuid(called))
    given = params_of(call)
    view = given.get("view", ["conversation"])[0]
    record, _ = await value_or_why(
        call, thread_records.list_recorded_threads, query={"id_prefix": call.thread_id, "limit": 1}
    )
    runs, runs_problem = await value_or_why(
        call, records.list_recorded_runs, query={"thread_id": call.thread_id, "limit": SHOWN_RUNS}
    )
    agent = (thread.metadata or {}).get(GRAPH)
    served, _ = await value_or_why(call, records.list_agents)
    known = next((one for one in served or () if one.name == agent), None)
    keeps = bool(known and known.keeps_threads)
    shows = {"state": _state, "history": _history}.get(view)
    more = await (_conversation(call, thread, runs or [], keeps=keeps) if shows is None else shows(call, given))
    return Page(
        "thread",
        place="threads",
        twins=(f"/threads/{call.thread_id}", f"/threads/{call.thread_id}/history", f"/runs?thread_id={call.thread_id}"),
        thread=thread,
        thread_id=call.thread_id,
        record=record[0] if record else None,
        runs=list(reversed(runs or [])),
        runs_problem=runs_problem,
        agent=agent,
        is_served=known is not None,
        keeps=keeps,
        questions=questions_of(await _asked(call, thread)),
        view=view if view in VIEWS else "conversation",
        views=VIEWS,
        own_metadata={key: value for key, value in thread.metadata.items() if key not in {GRAPH, "assistant_id"}},
        ttl=thread.ttl if isinstance(thread.ttl, dict) else None,
        **more,
    )


async def _named(call: PageCall, thread_id: str) -> Page | None:
    """The page of a thread that the API does not serve, named by the command line or a program: its runs, and the
    command that answers what it asks. None if no thread has exactly this name.
    """
    if is_served(thread_id):
        return None
    try:
        query = {"thread_id": thread_id, "limit": SHOWN_RUNS}
        runs = (await API.ask(call, records.list_recorded_runs, query=query)).value
    except HttpError as exc:
        if answer_of(exc).status != 422:  # which means that no thread can have this name
            raise
        return None
    if not runs:
        return None
    waiting = await waiting_run(call, thread_id)
    questions = () if waiting is None else await _questions_of(call, waiting)
    return Page(
        "thread_named",
        place="threads",
        twins=(f"/runs?{urlencode({'thread_id': thread_id})}",),
        thread_id=thread_id,
        runs=list(reversed(runs)),
        has_more=len(runs) == SHOWN_RUNS,
        waiting=waiting,
        questions=questions,
        command=answer_command(thread_id, questions),
    )


async def _asked(call: PageCall, thread: Any) -> Sequence[JsonObject]:
    """What the thread waits for that no run answers yet; if it has stopped between two steps, the stop."""
    asked = [one for interrupts in thread.interrupts.values() for one in interrupts]
    if asked and thread.status == ThreadStatus.busy:
        closed = await closed_questions(call, call.thread_id, [str(one.get("id")) for one in asked])
        return [one for one in asked if str(one.get("id")) not in closed]
    if asked or thread.status != ThreadStatus.interrupted:
        return asked
    state, _ = await value_or_why(call, states.get_state, query=STOP)
    stop = None if state is None else stop_in(state)
    return [] if stop is None else [stop]


async def _conversation(call: PageCall, thread: Any, runs: Sequence[Any], *, keeps: bool) -> JsonObject:
    """What was said: as the agent remembers it, or run by run, from what each was asked and returned."""
    found = conversation_in(thread.values)
    if found is not None and (keeps or any(message.speaker == "human" for message in found.messages)):
        return {"conversation": found, "turns": []}
    turns = [await _turn(call, run) for run in reversed(runs[:TURNS])]
    asked: Sequence[Question] = ()
    for turn in turns:
        if turn["resume"] is not None:
            turn["answered"] = answers_read(turn["resume"], asked)
        asked = turn["questions"]
    if turns and thread.values:
        newest = turns[-1]
        newest["gave"] = found or newest["gave"] or _text_alone(thread.values)
        newest["gave_value"] = None if newest["gave"] else folded(thread.values)
    return {"conversation": None, "turns": turns, "more_turns": len(runs) > TURNS}


def _text_alone(values: Any) -> Conversation | None:
    """What an agent returned, if that is a text: its `output`, or the only value."""
    alone = next(iter(values.values())) if isinstance(values, Mapping) and len(values) == 1 else values
    said = values.get("output", alone) if isinstance(values, Mapping) else alone
    return spoken("ai", said) if isinstance(said, str) and said else None


async def _questions_of(call: PageCall, run: Any) -> Sequence[Question]:
    """What a run has asked that ended with questions."""
    if run.status != RunStatus.interrupted:
        return ()
    query = {"run_id": run.run_id, "type": [LifecycleEventType.RUN_COMPLETED.value], "newest_first": True, "limit": 1}
    found, _ = await value_or_why(call, events.list_events, query=query)
    return questions_of(found[0].payload.get("interrupts")) if found else ()


async def _turn(call: PageCall, run: Any) -> JsonObject:
    details, problem = await value_or_why(call, records.get_recorded_run, path={"run_id": run.run_id})
    request = (details.request if details is not None else None) or {}
    asked = request.get("input")
    answered = (request.get("command") or {}).get("resume")
    said = (details.completion_data if details is not None else {}).get("last_ai_message")
    return {
        "run": run,
        "problem": problem,
        "asked": spoken("human", asked) if isinstance(asked, str) else conversation_in(asked),
        "asked_value": None if asked is None else folded(asked),
        "resume": answered,
        "answered": [],
        "questions": await _questions_of(call, run),
        "gave": spoken("ai", said) if isinstance(said, str) and said else None,
        "gave_value": None,
    }


async def _state(call: PageCall, given: Given) -> JsonObject:
    """What the thread remembers, now or at a checkpoint."""
    at = given.get("at", [None])[0]
    state, problem = await _at(call, at)
    return {
        "state": state,
        "problem": problem,
        "at": at,
        "values": None if state is None else folded(state["values"]),
        "next": [] if state is None else state["next"],
        "state_metadata": None if state is None else folded(state["metadata"]),
        "written_at": None if state is None else _time(state["created_at"]),
    }


async def _at(call: PageCall, checkpoint_id: str | None) -> tuple[Any, str | None]:
    if checkpoint_id is None:
        return await value_or_why(call, states.get_state)
    return await value_or_why(
        call, states.get_state_at, path={"thread_id": call.thread_id, "checkpoint_id": checkpoint_id}
    )


async def _history(call: PageCall, given: Given) -> JsonObject:
    """The checkpoints, newest first, and what differs between two of them."""
    before, at = (given.get(name, [None])[0] for name in ("before", "at"))
    found, problem = await value_or_why(
        call, states.get_history, query={"limit": SHOWN_CHECKPOINTS + 1, "before": before}
    )
    checkpoints = [_checkpoint(one) for one in (found or [])]
    shown = checkpoints[:SHOWN_CHECKPOINTS]
    if at is not None and all(one["id"] != at for one in shown):
        state, _ = await _at(call, at)
        shown = ([] if state is None else [_checkpoint(state)]) + shown
    first, second = (given.get(name, [None])[0] for name in ("from", "to"))
    return {
        "checkpoints": shown,
        "problem": problem,
        "older": shown[-1]["id"] if len(checkpoints) > SHOWN_CHECKPOINTS else None,
        "before": before,
        "first": first,
        "second": second,
        "at": at,
        "fork": given.get("fork", [None])[0],
        **(await _compared(call, first, second) if first and second else {"compared": None, "compare_problem": None}),
    }


def _checkpoint(state: JsonObject) -> JsonObject:
    """What the list of checkpoints shows about one."""
    place, parent = state["checkpoint"] or {}, state["parent_checkpoint"] or {}
    metadata = state["metadata"] or {}
    return {
        "id": place.get("checkpoint_id") or "",
        "parent": parent.get("checkpoint_id"),
        "step": metadata.get("step"),
        "source": metadata.get("source"),
        "run_id": metadata.get("run_id"),
        "created_at": _time(state["created_at"]),
        "next": state["next"],
        "asks": bool(state["interrupts"]),
    }


def _time(said: str | None) -> datetime | None:
    try:
        return None if said is None else datetime.fromisoformat(said)
    except ValueError:  # other people's agents may write what they like
        return None


async def _compared(call: PageCall, first: str, second: str) -> JsonObject:
    old, old_problem = await _at(call, first)
    new, new_problem = await _at(call, second)
    if old is None or new is None:
        return {"compared": None, "compare_problem": old_problem or new_problem}
    found = difference(old["values"], new["values"])
    return {"compared": _written(found), "compare_problem": None, "compare_cut": found.is_cut}


def _written(found: Difference) -> list[JsonObject]:
    return [
        {
            "path": change.path or "all of it",
            "kind": change.kind,
            "old": None if change.kind == "added" else apart(change.old, change.new)[0],
            "new": None if change.kind == "removed" else apart(change.old, change.new)[1],
        }
        for change in found.changes
    ]


_AROUND: Final = 60
_LONGEST: Final = 2_000


def apart(old: Any, new: Any) -> tuple[str, str]:
    """Two values in a form for comparing: long texts that begin alike are shown from where they differ."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return _readable(old), _readable(new)
    shorter = min(len(old), len(new))
    same = next((place for place in range(shorter) if old[place] != new[place]), shorter)
    skipped = max(0, same - _AROUND)
    return _cut(old, skipped), _cut(new, skipped)


def _cut(text: str, skipped: int) -> str:
    shown = text[skipped : skipped + _LONGEST]
    return f"{'…' if skipped else ''}{shown}{'…' if len(text) > skipped + _LONGEST else ''}"


def _readable(value: Any) -> str:
    return _cut(value, 0) if isinstance(value, str) else short(value, _LONGEST)
