"""How runs end, as clients hear it: what their streams say last, and what clients that wait for them get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.wire.runs import status_of
from trackside.app.storage import Store, StoredRun
from trackside.app.streams import sse_of
from trackside.harness import RunResult
from trackside.harness.lifecycle import has_failed, is_final
from trackside.harness.payload import json_bytes
from trackside.harness.ports import StreamGap
from trackside.harness.powers import says_values
from trackside.harness.questions import INTERRUPTS, asked_in
from trackside.harness.states import Caller, KeepsThreads, ThreadPlace, last_shown
from trackside.harness.types import RunStatus

_decode = msgspec.json.Decoder().decode
_GIVES = frozenset({RunStatus.success, RunStatus.interrupted})
_NOTHING = b"null"


class RunEnd(NamedTuple):
    """How a run ended. `error_type` and `error` are set if it failed, `retried_as` if another run goes on for it."""

    status: RunStatus
    error: str | None = None
    error_type: str | None = None
    interrupts: Any = ()
    retried_as: str | None = None

    @classmethod
    def said(cls, says: Mapping[str, Any]) -> RunEnd:
        """The end of a run, by what its last event says."""
        return cls(
            RunStatus(says.get("status", RunStatus.cancelled)),
            says.get("error"),
            says.get("error_type"),
            says.get("interrupts", ()),
            says.get("retried_as"),
        )

    @classmethod
    def stored(cls, run: StoredRun) -> RunEnd:
        """The end of a run, by what the log has of it."""
        return cls(run.status, run.error, run.error_type)

    @property
    def failure(self) -> dict[str, Any] | None:
        """What went wrong, as clients know it; None if nothing did."""
        if not has_failed(self.status):
            return None
        kind = self.error_type or ("TimeoutError" if self.status is RunStatus.timeout else "Error")
        message = self.error
        if message is not None and message.startswith(f"{kind}: "):  # so that it can stand alone, as for `KeyError`
            message = message.removeprefix(f"{kind}: ")
        return {"error": kind, "message": message}

    def frame(self, run_id: str) -> bytes:
        """What the run's stream says last. Clients that see it need not ask whether there was more to come."""
        failure = self.failure
        says = {"run_id": run_id, "status": status_of(self.status)} if failure is None else failure
        if self.retried_as is not None:
            says["retried_as"] = self.retried_as
        return event_frame("end" if failure is None else "error", says)


def event_frame(event: str, data: Any, id: str | None = None) -> bytes:
    """One server-sent event."""
    return sse_of(event, json_bytes(data), id)


def gap_said(gap: StreamGap) -> dict[str, Any]:
    """What clients are told of parts that they do not get."""
    says: dict[str, Any] = {"first": gap.first, "last": gap.last}
    return says if gap.why is None else {**says, "why": gap.why}


async def body_of(parts: ServerParts, result: RunResult, agent: str, caller: Caller) -> bytes:
    """What a client that has waited for a run of this process gets: its values, or what went wrong. Clients look into
    it, so it is an object even where nothing came of the run.

    Raises:
        HttpError: another process has ended the run, and what it gave back has gone with the thread.
    """
    says = parts.streams.end_of(result.run_id)
    if has_failed(result.status):
        return _failed(await _failure_of(parts, result, says))
    values = parts.streams.values(result.run_id)
    find = _values_left if says is None else _values_now
    if result.status is RunStatus.interrupted:
        interrupts = says.get("interrupts", ()) if says is not None else ()
        known = _decode(values) if values is not None else await find(parts, result, agent, caller)
        return _given(known, interrupts)
    if values is not None:
        return _said(values)
    if result.output is not None:
        output = result.output
        return json_bytes(output if isinstance(output, dict) else {"output": output})
    return _given(await find(parts, result, agent, caller))


async def _failure_of(parts: ServerParts, result: RunResult, says: Mapping[str, Any] | None) -> RunEnd:
    """How a run has failed: by what was said of it here, or by the log, if another process has ended it."""
    if says is not None:
        return RunEnd(result.status, result.error, says.get("error_type"))
    run = await parts.store.run(result.run_id, removed=True)
    if run is not None and is_final(run.status):
        return RunEnd.stored(run)
    return RunEnd(result.status, result.error)


def body_heard(parts: ServerParts, run_id: str) -> bytes | None:
    """What a client that has waited for a run gets, if all of it was said live: what went wrong, or its values."""
    says, values = parts.streams.end_of(run_id), parts.streams.values(run_id)
    if says is None:
        return None
    end = RunEnd.said(says)
    if end.failure is not None:
        return _failed(end)
    if values is None or end.status not in _GIVES:
        return None
    return _said(values, end.interrupts)


async def body_of_ended(parts: ServerParts, run: StoredRun, caller: Caller) -> bytes:
    """What a client that asks for a run that ended some time ago, or elsewhere, gets: its values if they are kept here,
    else the thread's as they are now, or what went wrong.

    Raises:
        HttpError: the values have gone with the thread; no client is told that there were none.
    """
    end = RunEnd.stored(run)
    if end.failure is not None:
        return _failed(end)
    said = parts.streams.end_of(run.run_id)
    values = parts.streams.values(run.run_id)
    if said is not None and values is not None:
        return _said(values, said.get("interrupts", ()))
    return _given(await _values_left(parts, run, run.agent or "", caller))


async def thread_values(
    agents: Mapping[str, Any], store: Store, checkpointer: Any, *, agent: str, thread_id: str, caller: Caller
) -> Any:
    """What an agent gives back of its thread's current state, with the questions that are open. Agents that are made
    for each call are made for the caller.
    """
    known = agents.get(agent)
    if isinstance(known, KeepsThreads):
        snapshot = await last_shown(known, ThreadPlace(thread_id=thread_id, checkpointer=checkpointer, caller=caller))
        return None if snapshot is None else with_questions(snapshot.output, snapshot.interrupts)
    state = await store.thread_states().load(thread_id)
    if state is None:
        return None
    return with_questions(state.values, state.paused.interrupts if state.paused is not None else ())


async def _values_now(parts: ServerParts, run: RunResult | StoredRun, agent: str, caller: Caller) -> Any:
    agents, thread_id = parts.manager.agents, run.thread_id
    return await thread_values(agents, parts.store, parts.checkpointer, agent=agent, thread_id=thread_id, caller=caller)


async def _values_left(parts: ServerParts, run: RunResult | StoredRun, agent: str, caller: Caller) -> Any:
    """The values of a run of which none were heard here, as its thread has them, with the questions that are open.

    Raises:
        HttpError: the values have gone with the thread; no client is told that there were none, unless that is known,
            and what the run has asked.
    """
    values = await _values_now(parts, run, agent, caller)
    if values is None and run.status in _GIVES and await parts.store.thread(run.thread_id) is None:
        if says_values(parts.manager.agents.get(agent)) and parts.streams.said_no_values(run.run_id):
            asked = (parts.streams.end_of(run.run_id) or {}).get("interrupts", ())
            if asked or run.status is RunStatus.success:
                return with_questions(None, asked)
        why = f"run {run.run_id} has ended as {status_of(run.status)!r}, and what it gave back went with its thread"
        raise HttpError(status=404, detail=f"{why}; on_completion=keep keeps that")
    return values


def _failed(end: RunEnd) -> bytes:
    return json_bytes({"__error__": end.failure})


def _said(values: bytes, interrupts: Any = ()) -> bytes:
    """The body for values that were said live."""
    return _given(_decode(values), interrupts) if interrupts or values == _NOTHING else values


def _given(values: Any, interrupts: Any = ()) -> bytes:
    """The body for values: `{}` where there are none."""
    found = with_questions(values, interrupts)
    return json_bytes({} if found is None else found)


def with_questions(values: Any, interrupts: Any) -> Any:
    """Values with the questions that are open, if there are any; at a breakpoint nobody asks anything."""
    if not isinstance(values, dict | None) or not (questions := asked_in(interrupts or ())):
        return values
    return {**(values or {}), INTERRUPTS: questions}
