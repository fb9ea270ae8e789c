"""One run: what happened when, what was said, what it cost, why it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import compress
from typing import Any, Final

from trackside.app.dashboard.cutting import Cut, cut, json_cut
from trackside.app.dashboard.declaring import API, page, params_of
from trackside.app.dashboard.pages import _run_reading as reading
from trackside.app.dashboard.pages._run_commands import Commands, answer_command, commands_of, create_request
from trackside.app.dashboard.pages._run_texts import Said, Used, said, used_by
from trackside.app.dashboard.pages._timeline import MOST_ROWS, Timeline, timeline_of
from trackside.app.dashboard.questions import Question, only_answer, questions_of
from trackside.app.dashboard.rendering import FailurePage, Page
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.calls import is_served, uuid_of
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.routes import events
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.log import LogEvent, RunDetails
from trackside.harness.errors import UnknownRunError
from trackside.harness.lifecycle import is_final
from trackside.harness.questions import answers_said
from trackside.harness.types import RunStatus

routes = Routes("Console")

_MOST_OF_EVENT: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run that waits for a human wants to know, and whether it still does."""

    open: tuple[Question, ...] = ()
    answered: tuple[Question, ...] = ()
    why_unknown: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What can be done with the run: each is None, or the reason why it cannot be done."""

    fork: str | None
    retry: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the page shows of a run besides its record."""

    end: Mapping[str, Any]
    """What its last event says."""
    found: reading.Found
    timeline: Timeline
    asked: Asked
    input: Said | None
    """None: what was asked for is not kept."""
    answer: Cut | None
    """The human's answer with which this run went on."""
    output: Said
    output_missing: str | None
    checkpoint_id: str | None
    models: tuple[Used, ...]
    callers: tuple[Used, ...]
    calls_omitted: int | None
    commands: Commands
    choices: Choices
    answer_command: str | None
    """The command that answers it; None: a form does. The API serves only threads whose id is a UUID in lower case."""
    fork_input: str | None
    """The input as JSON, to be edited for a fork; None: it is an answer, or too long for that."""
    due_at: datetime | None
    """When the run starts, if it is to start later."""
    request: Cut | None
    metadata: Cut | None
    traceback: Cut | None
    wrong: tuple[str, ...] = ()
    """What was wrong with the address."""


@page(routes, "/ui/runs/{run_id}")
async def show_run(call: Call[None, None]) -> Any:
    """One run: what happened when, what was said, what it cost, why it failed."""
    try:
        run_id = uuid_of(call.path["run_id"], "run_id")
    except HttpError:
        said_id = call.path["run_id"]
        return Page("run_gone", place="runs", status=404, run_id=said_id, is_id=False, events=0)
    try:
        run = await reading.details_of(call, run_id)
    except UnknownRunError:
        return await _gone(call, run_id)
    shown = await _shown(call, run)
    has_state = is_served(run.thread_id)
    state = (f"/threads/{run.thread_id}/state",) if has_state else ()
    return Page(
        "run",
        place="runs",
        twins=(f"/runs/{run_id}", f"/events?run_id={run_id}", *state),
        shown=shown,
        run=run,
        has_state=has_state,
        event_json=event_json,
        now=reading.now(),
    )


@routes.get("/ui/runs/{run_id}/request.json", Permission.read, about=INSIDE, failing=FailurePage)
async def get_request(call: Call[None, None]) -> Any:
    """The body with which the API starts the same run, for a file: a command line does not hold any."""
    run = await reading.details_of(call, call.run_id)
    if run.request is None:
        raise HttpError(status=404, detail="the request of this run is not kept")
    return {**create_request(run.request, run.agent or "", run.metadata), "on_completion": "keep"}


async def _gone(call: Call[None, None], run_id: str) -> Page:
    """The page that says that there is no such run, or if it was removed, that the log still has its events."""
    try:
        query = {"run_id": run_id, "limit": 1}
        found = (await API.ask(call, events.list_events, query=query)).value
    except UnknownRunError:
        found = []
    return Page("run_gone", place="runs", status=404, run_id=run_id, is_id=True, events=len(found))


def event_json(event: LogEvent) -> Cut:
    """What an event says."""
    return json_cut(event.payload, _MOST_OF_EVENT)


async def _shown(call: Call[None, None], run: RunDetails) -> Shown:
    given = params_of(call)
    wrong: list[str] = []
    found = await reading.found_of(call, run, after=_position(given.get("events_after", ["0"])[0], wrong))
    around = found.around
    end: Mapping[str, Any] = {} if found.end is None else found.end.payload
    data = _mapping(end.get("completion_data")) or run.completion_data
    callers = used_by(data.get("token_usage_by_caller"))
    request = run.request or {}
    goes_on = bool(request.get("thread_exists")) or around.earlier is not None
    output, missing = _output(run, found.state, data)
    asked = _asked(run, found, end)
    return Shown(
        end=end,
        found=found,
        timeline=_timeline(run, found, data, callers, most=None if given.get("rows") == ["all"] else MOST_ROWS),
        asked=asked,
        input=_input(run, data),
        answer=_answer(request),
        output=output,
        output_missing=missing,
        checkpoint_id=_checkpoint(found.state.value),
        models=used_by(data.get("token_usage_by_model")),
        callers=callers,
        calls_omitted=data.get("calls_omitted") if isinstance(data.get("calls_omitted"), int) else None,
        commands=commands_of(
            run_id=run.run_id,
            thread_id=run.thread_id,
            agent=run.agent or "",
            request=request,
            metadata=run.metadata,
            base_url=_base_url(call),
            goes_on=goes_on,
            asks_who=call.parts.authenticator is not None,
        ),
        choices=_choices(run, found),
        answer_command=None if is_served(run.thread_id) else answer_command(run.thread_id, asked.open),
        fork_input=_fork_input(request),
        due_at=_due_at(run),
        request=None if run.request is None else json_cut(run.request),
        metadata=json_cut(run.metadata) if run.metadata else None,
        traceback=_traceback(end),
        wrong=tuple(wrong),
    )


def _timeline(
    run: RunDetails, found: reading.Found, data: Mapping[str, Any], callers: Sequence[Used], *, most: int | None
) -> Timeline:
    calls = data.get("calls")
    return timeline_of(
        reading.ran(run),
        calls=calls if isinstance(calls, list) else (),
        children=[reading.ran(child) for child in found.around.children],
        events=found.drawn,
        costs={line.name: line.cost for line in callers[:-1]},
        now=reading.now(),
        most=most,
    )


def _position(text: str, wrong: list[str]) -> int:
    digits = text.lstrip("0")
    if text.isascii() and text.isdecimal() and len(digits) < 20 and int(digits or "0") < 2**63:
        return int(digits or "0")
    wrong.append(
        f"events_after is a position of the log, a whole number, and not {text!r:.40}; these are the first events."
    )
    return 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _asked(run: RunDetails, found: reading.Found, end: Mapping[str, Any]) -> Asked:
    if run.status is not RunStatus.interrupted:
        return Asked()
    questions, known = questions_of(end.get("interrupts")), found.open_questions
    if known.value is None:
        return Asked(answered=questions, why_unknown=known.why_not)
    still = [one.id in known.value for one in questions]
    return Asked(
        open=tuple(compress(questions, still)),
        answered=tuple(one for one, is_open in zip(questions, still, strict=True) if not is_open),
    )


def _input(run: RunDetails, data: Mapping[str, Any]) -> Said | None:
    """What went in; if the run's request is not kept, the beginning of what a human said."""
    if run.request is not None:
        return said(run.request.get("input"))
    first = data.get("first_human_message")
    return said({"messages": [first]}) if isinstance(first, str) and first else None


def _answer(request: Mapping[str, Any]) -> Cut | None:
    command = _mapping(request.get("command"))
    if "resume" not in command:
        return None
    resume = only_answer(answers_said(command["resume"]))
    return cut(resume) if isinstance(resume, str) else json_cut(resume)


def _fork_input(request: Mapping[str, Any]) -> str | None:
    if request.get("command") is not None:
        return None
    shown = json_cut(request.get("input"))
    return None if shown.left_out else shown.text


def _output(run: RunDetails, state: reading.Known[Any], data: Mapping[str, Any]) -> tuple[Said, str | None]:
    """What the run returned, and why that is not all."""
    values = _mapping(state.value).get("values")
    if values:
        return said(values, since_human=True), None
    last = data.get("last_ai_message")
    shown = said({"messages": [{"type": "ai", "content": last}]}) if isinstance(last, str) and last else Said()
    if not is_final(run.status):
        return shown, "It has not ended yet."
    if run.status is not RunStatus.success:
        return shown, state.why_not
    if state.why_not is not None:
        return shown, f"What the thread held then cannot be shown: {state.why_not}."
    changed = "What the thread held when this run ended is not kept: a later run has changed it."
    return shown, changed if shown.conversation.messages else None


def _checkpoint(state: Any) -> str | None:
    found = _mapping(_mapping(state).get("checkpoint")).get("checkpoint_id")
    return found if isinstance(found, str) else None


def _traceback(end: Mapping[str, Any]) -> Cut | None:
    text = end.get("traceback")
    return cut(text) if isinstance(text, str) and text else None


def _due_at(run: RunDetails) -> datetime | None:
    seconds = (run.request or {}).get("after_seconds")
    if run.status is not RunStatus.pending or not isinstance(seconds, int | float) or seconds <= 0:
        return None
    try:
        return run.created_at + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _choices(run: RunDetails, found: reading.Found) -> Choices:
    agent = found.agents.get(run.agent or "")
    if run.request is None:
        why = "its request is not kept, so it cannot be run again"
        return Choices(fork=why, retry=why)
    if agent is None:
        why = f"the agent {run.agent!r:.80} is not served here"
        return Choices(fork=why, retry=why)
    if not is_served(run.thread_id):
        return Choices(fork="the id of its thread is not a UUID in lower case", retry=None)
    if not agent.keeps_threads and found.around.earlier is not None:
        why = f"the agent {agent.name!r:.80} keeps only what its thread is now, and not what it was before this run"
        return Choices(fork=why, retry=None)
    return Choices(fork=None, retry=None)


def _base_url(call: Call[Any, Any]) -> str:
    forwarded = (call.header("x-forwarded-proto") or "").partition(",")[0].strip()
    scheme = forwarded if forwarded in {"http", "https"} else call.scope.get("scheme", "http")
    return f"{scheme}://{call.header('host') or 'localhost:2024'}{call.root}"
