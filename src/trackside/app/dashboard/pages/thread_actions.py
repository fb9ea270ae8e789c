"""What can be done with a thread from its page, and wherever its questions are shown."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from trackside.app.dashboard.declaring import API, action
from trackside.app.dashboard.rendering import Said
from trackside.app.server.failures import HttpError
from trackside.app.server.routes import runs, threads
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.threads import GRAPH

routes = Routes("Console")


class Answer(Struct, kw_only=True):
    """Answers to open questions, in their order."""

    csrf: str | None = None
    question: list[str]
    answer: list[str]
    kind: Literal["auto", "yes", "no", "approve", "reject"] = "auto"
    as_text: bool = False


class Fork(Struct, kw_only=True):
    """Where a run begins anew, and with what."""

    csrf: str | None = None
    checkpoint_id: str
    input: str = ""


class Change(Struct, kw_only=True):
    """What is said anew of a thread."""

    csrf: str | None = None
    metadata: str = ""
    ttl: str = ""


class Plain(Struct, kw_only=True):
    """Nothing but that it comes from a page."""

    csrf: str | None = None


@action(routes, "/ui/threads/{thread_id}/answer", body=Answer)
async def answer_thread(call: Call[Answer, None]) -> Any:
    """Answer what a thread waits for, and go on with it."""
    given = call.body
    thread = (await API.ask(call, threads.get_thread)).value
    waiting = [one for asked in thread.interrupts.values() for one in asked]
    if not waiting:
        raise HttpError(status=409, detail="nothing is asked any more: somebody has answered already")
    agent = (thread.metadata or {}).get(GRAPH)
    body = {"assistant_id": agent, "command": {"resume": _resume(given, waiting)}}
    run = (await API.ask(call, runs.create_run, body=body)).value
    return Said(f"Answered. The run …{run.run_id[-8:]} goes on with it.")


def _resume(given: Answer, waiting: list[dict[str, Any]]) -> Any:
    """What a run brings to go on: the answer, or each answer under its question's id."""
    words = {"yes": True, "no": False}
    if given.kind in words:
        return words[given.kind]
    if given.kind in {"approve", "reject"}:
        return _decisions(given, waiting)
    said = {
        question: _value(answer, as_text=given.as_text)
        for question, answer in zip(given.question, given.answer, strict=False)
        if answer.strip()
    }
    if not said:
        raise HttpError(status=422, detail="there is no answer yet: write one")
    if len(waiting) == 1:
        return next(iter(said.values()))
    return said


def _decisions(given: Answer, waiting: list[dict[str, Any]]) -> dict[str, Any]:
    """A decision on each action that an agent wants to do, as LangChain's agents wait for them."""
    value = waiting[0].get("value")
    requests = value.get("action_requests") if isinstance(value, dict) else None
    reason = "\n".join(given.answer).strip()
    decision: dict[str, Any] = {"type": given.kind}
    if given.kind == "reject" and reason:
        decision["message"] = reason
    return {"decisions": [decision] * (len(requests) if isinstance(requests, list) and requests else 1)}


def _value(text: str, *, as_text: bool = False) -> Any:
    """What somebody has written: JSON if it is some, else the text."""
    text = text.replace("\r\n", "\n")
    if as_text:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


@action(routes, "/ui/threads/{thread_id}/fork", body=Fork)
async def fork_thread(call: Call[Fork, None]) -> Any:
    """Start a run from a checkpoint of a thread; what came after that stays in the history."""
    given = call.body
    thread = (await API.ask(call, threads.get_thread)).value
    agent = (thread.metadata or {}).get(GRAPH)
    body = {
        "assistant_id": agent,
        "input": _input(given.input) if given.input.strip() else None,
        "checkpoint_id": given.checkpoint_id,
    }
    await API.ask(call, runs.create_run, body=body)
    return Said(f"A new run goes on from checkpoint …{given.checkpoint_id[-8:]}.", to=f"/ui/threads/{call.thread_id}")


def _input(text: str) -> Any:
    """An object as it is; anything else is what a human says."""
    value = _value(text)
    return value if isinstance(value, dict) else {"messages": [{"role": "user", "content": text}]}


@action(routes, "/ui/threads/{thread_id}/copy", body=Plain)
async def copy_thread(call: Call[Plain, None]) -> Any:
    """Make another thread that remembers the same."""
    copied = (await API.ask(call, threads.copy_thread)).value
    return Said("Copied: this is the new thread, without the runs.", to=f"/ui/threads/{copied.thread_id}")


@action(routes, "/ui/threads/{thread_id}/delete", body=Plain)
async def delete_thread(call: Call[Plain, None]) -> Any:
    """Remove a thread."""
    await API.ask(call, threads.delete_thread)
    return Said("The thread is gone.", to="/ui/threads")


@action(routes, "/ui/threads/{thread_id}/change", body=Change)
async def change_thread(call: Call[Change, None]) -> Any:
    """Add metadata, and say anew how long the thread lives."""
    given, change = call.body, dict[str, Any]()
    if given.metadata.strip():
        try:
            change["metadata"] = msgspec.json.decode(given.metadata, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as exc:
            raise HttpError(status=422, detail=f"metadata: this is no JSON object ({exc})") from exc
    if given.ttl.strip():
        try:
            change["ttl"] = float(given.ttl)
        except ValueError:
            raise HttpError(status=422, detail=f"{given.ttl!r:.80} is no number of minutes") from None
    if not change:
        raise HttpError(status=422, detail="there is nothing to change: write metadata or minutes")
    await API.ask(call, threads.update_thread, body=change)
    return Said("The thread is changed.")
