"""The commands that run an agent: `run`, `resume` and `retry`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from msgspec.structs import replace

from trackside.app.attempts import check_that_it_answers
from trackside.app.cli.actions.delivering import say_what_is_left
from trackside.app.cli.actions.run_options import RunOptions, View
from trackside.app.cli.actions.spooled import path_from_here, say_what_is_spooled
from trackside.app.cli.arguments import (
    ArgumentError,
    read_answer,
    read_input,
)
from trackside.app.cli.failures import EXIT_CODE_OF, ExitCode
from trackside.app.cli.formatting import json_line
from trackside.app.cli.leftovers import UnwaitedExecutor, event_loop
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.noticing import Notices, saying_waits
from trackside.app.cli.places import home_of
from trackside.app.cli.records.lookup import (
    STANDINGS,
    find_ended_run,
    find_paused_run,
    not_waiting,
    open_questions,
    stops_behind,
)
from trackside.app.cli.records.questions import answer_to, is_stop
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.cli.stopping import StopSignals, ended_by_stop_signals, interrupt_on_stop_signals
from trackside.app.cli.views.jsonlines import JsonView
from trackside.app.cli.views.output import standard_error, standard_output
from trackside.app.cli.views.timeline import Timeline
from trackside.app.cli.views.usage import unpriced_note
from trackside.app.settings import Settings
from trackside.app.wiring import DELIVERY_SECONDS, App, open_app, open_store
from trackside.app.wiring.agents import AgentReference, ForgetfulAgentError, forgets, keys_instead_of_text, load_agent
from trackside.app.wiring.memories import remembers_question
from trackside.app.wiring.projects import enter_project
from trackside.harness import RunHandle, RunResult, RunSpec, TracksideError
from trackside.harness.admission import another_attempt, record_of
from trackside.harness.errors import Fault, ThreadBusyError
from trackside.harness.foreign.failures import line_of
from trackside.harness.ids import new_id
from trackside.harness.powers import completed_of
from trackside.harness.threads import AGENT_THREADS
from trackside.harness.types import JsonObject, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.storage import StoredRun

logger = logging.getLogger("trackside.cli")

_TYPED = ("timeout", "max_tokens", "max_cost_usd", "max_llm_calls", "max_tool_calls")
_LEFT_BEHIND = "left behind: it did not stop"
_GRACE = 1.0  # seconds that a run still has after it was told twice to stop
_WAITING_AFTER = 2.0  # seconds within which a database opens and takes the start of a run
_DELIVERING_AFTER = 0.5  # seconds of waiting that are not worth mentioning
_RECORDED_WITHIN = 6.0  # seconds; somewhat longer than the database waits for its lock


class NotRecordedError(TracksideError):
    """the run was not started, because it could not be recorded: {why}."""

    fault: ClassVar[Fault] = "store"


class SpooledError(NotRecordedError):
    """the run was not started, because it could not be recorded: {why}. Its failure is kept in {spool}; `trackside run` delivers it once the database takes it again."""  # noqa: E501


def run(agent: str, input: str | None, options: RunOptions, *, thread: str | None) -> ExitCode:
    """Run an agent once and show it."""
    if (server := options.place.server) is not None:
        from trackside.app.cli.actions import remote_running

        return remote_running.run(server, agent, input, options, thread=thread)
    settings = options.settings()
    reference = AgentReference.parse(agent, settings.agents)
    spec = options.spec(reference.text, input=read_input(input), thread_id=thread)
    return _run(settings, reference, spec, json=options.json)


def resume(thread: str, answer: str, options: RunOptions, *, agent: str | None) -> ExitCode:
    """Answer the question of a thread, and show it go on.

    Raises:
        NotWaitingError: the thread does not wait for an answer.
        UnsaidQuestionError: it waits, but none of its runs has said for what.
        UnansweredError, UnknownQuestionError: it waits for several answers, or for a different one.
    """
    if (server := options.place.server) is not None:
        from trackside.app.cli.actions import remote_running

        return remote_running.resume(server, thread, answer, options, agent=agent)
    settings = options.settings()
    paused, questions, stops = run_loop(_find_paused, settings, thread)
    reference = AgentReference.parse(agent or paused.agent or "", settings.agents)
    command = {"resume": answer_to(questions, read_answer(answer), thread_id=paused.thread_id)}
    spec = options.spec(reference.text, thread_id=paused.thread_id, command=command, multitask="reject", **stops)
    return _run(settings, reference, spec, json=options.json)


def retry(run: str, options: RunOptions, *, agent: str | None) -> ExitCode:
    """Repeat what a run that has ended was asked for, and show it.

    Raises:
        NotEndedError, RequestNotKeptError: it has not ended, or what it was asked for is not kept.
        AskedSinceError: the run brought an answer, and its thread asks something else by now.
    """
    if (server := options.place.server) is not None:
        from trackside.app.cli.actions import remote_running

        return remote_running.retry(server, run, options, agent=agent)
    settings = options.settings()
    ended, request, thread_id = run_loop(_find_ended, settings, run)
    reference = AgentReference.parse(agent or ended.agent or "", settings.agents)
    spec = _again(ended, request, options.spec(reference.text), thread_id)
    if thread_id != ended.thread_id:
        again = (
            f"the thread of run {ended.run_id} was made for it alone, and ended with it; it has a new one: {thread_id}"
        )
        standard_error().print(again, soft_wrap=True)
    return _run(settings, reference, spec, json=options.json)


def _again(ended: StoredRun, request: JsonObject, typed: RunSpec, thread_id: str) -> RunSpec:
    """The request of an ended run, overridden by the options that were typed now."""
    asked = another_attempt(
        request,
        attempt=ended.attempt + 1,
        retry_of=ended.run_id,
        thread_id=thread_id,
        parent_run_id=ended.parent_run_id,
    )
    limits = {name: value for name in _TYPED if (value := getattr(typed, name)) is not None}
    return replace(
        asked,
        agent=typed.agent,
        metadata={**(asked.metadata or {}), **(typed.metadata or {})} or None,
        stream_mode=typed.stream_mode,
        **limits,
    )


def _run(settings: Settings, reference: AgentReference, spec: RunSpec, *, json: bool) -> ExitCode:
    interrupt_on_stop_signals()
    view: View = JsonView() if json else Timeline(standard_output())
    with view:
        # Loaded before there is an event loop, as agents' modules expect, and inside the view, which takes what they print.
        enter_project(settings)
        makes_graphs = settings.agents.get(reference.text) in settings.project.graphs
        agent = load_agent(reference, makes_graphs=makes_graphs)
        code = _run_to_the_end(lambda: _follow(settings, agent, spec, view))
    view.check()
    return code


def _run_to_the_end(follow: Callable[[], Coroutine[Any, Any, ExitCode]]) -> ExitCode:
    """Run as `loops.run` does, except that a `KeyboardInterrupt` raised by the agent or an observer stops nothing: it is
    just how that one failed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before there was a run.
    """
    task: asyncio.Task[ExitCode] | None = None

    async def main() -> ExitCode:
        nonlocal task
        task = asyncio.current_task()
        return await follow()

    with saying_waits(), event_loop() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(_report_to_loop)
        loop.set_default_executor(UnwaitedExecutor(AGENT_THREADS, thread_name_prefix="trackside-cli"))
        try:
            return runner.run(main())
        except KeyboardInterrupt:
            if task is None or task.done():
                raise
            return _go_on(loop, task)


def _go_on[T](loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:  # an observer raises it for each event
            if task.done():
                raise


def _report_to_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), KeyboardInterrupt):  # the run's end has already reported that one
        loop.default_exception_handler(context)


async def _follow(settings: Settings, agent: Any, spec: RunSpec, view: View) -> ExitCode:
    """Start the run, show it until it has ended, and say how it ended."""
    if forgets(agent) and spec.command is not None:
        raise ForgetfulAgentError(agent=spec.agent)
    if isinstance(spec.input, str) and (keys := keys_instead_of_text(agent)):
        why = f"this graph takes an object with {', '.join(keys)}, not text; write '{json_line({keys[0]: '…'})}'"
        raise ArgumentError(name="INPUT", why=why)
    record_of(spec, agent=spec.agent, now=datetime.now(UTC))  # refuse an impossible run before opening a database
    with Notices() as notices:
        app, result, unclosed = await _run_and_close(settings, agent, spec, view)
    why, spool = _clause(app.recorder.failure), app.recorder.spooled_in
    if not app.recorder.has_recorded:
        raise NotRecordedError(why=why) if spool is None else SpooledError(why=why, spool=path_from_here(spool))
    view.finish(result, home_of(settings), forgotten=forgets(agent))
    say_what_is_spooled(app.recorder, result.run_id)
    say_what_is_left(app)
    notices.say()
    limit = settings.limits_of(spec.agent).max_cost_usd if spec.max_cost_usd is None else spec.max_cost_usd
    if limit is not None and (note := unpriced_note(result.completion_data)) is not None:
        standard_error().print(note, soft_wrap=True, markup=False)
    if unclosed is not None and spool is None:
        raise unclosed
    return EXIT_CODE_OF[result.status]


async def _run_and_close(
    settings: Settings, agent: Any, spec: RunSpec, view: View
) -> tuple[App, RunResult, TracksideError | None]:
    """Run it, and close everything. A failure to close is returned, because it must not hide how the run ended."""
    app: App | None = None
    result: RunResult | None = None
    loop = asyncio.get_running_loop()
    waiting = loop.call_later(_WAITING_AFTER, view.waiting, "for the database")
    closing = contextlib.ExitStack()
    try:
        async with open_app(settings, {spec.agent: agent}, observers=[view], hands_over=False, one_run=True) as app:
            handle = await _start(app, _completed(app, await _as_it_waits(app, agent, spec, settings)))
            waiting.cancel()
            waiting = loop.call_later(_WAITING_AFTER, view.waiting, f"for thread {handle.thread_id}, which is busy")
            app.recorder.on_first(waiting.cancel)
            result = await _result(handle, view)
            if result is None:
                await _leave(app, handle, view, settings)
            await _deliver(app, view)
            limit = f"observers have {settings.shutdown_grace:g} s"
            waiting = loop.call_later(_DELIVERING_AFTER, view.stopping, "closing", limit)
            # The run's end is known but not shown yet; a stop signal could not make this any quicker.
            closing.enter_context(ended_by_stop_signals(_nothing, asyncio.Event()))
    except TracksideError as exc:
        if app is None or result is None:
            raise
        return app, result, exc
    finally:
        waiting.cancel()
        closing.close()
    return app, result, None


def _nothing() -> None: ...


async def _deliver(app: App, view: View) -> None:
    """Wait until durable observers have heard of the run, Ctrl-C is pressed, or it takes too long."""
    if not app.deliveries.names:
        return
    delivering = asyncio.create_task(app.deliveries.drain(DELIVERY_SECONDS), name="trackside-cli-deliver")
    loop = asyncio.get_running_loop()
    hint = loop.call_later(_DELIVERING_AFTER, view.stopping, "delivering", "Ctrl-C leaves the rest for later")
    with ended_by_stop_signals(delivering.cancel, asyncio.Event()):
        await asyncio.wait({delivering})
    hint.cancel()
    if not delivering.cancelled():
        delivering.result()


async def _as_it_waits(app: App, agent: Any, spec: RunSpec, settings: Settings) -> RunSpec:
    """Check, before there is a run, that an answer finds its question; a run that goes on past a stop brings none.

    Raises:
        NotWaitingError: somebody has answered meanwhile, or the thread does not remember that it asked.
        UnknownQuestionError: somebody has answered meanwhile, and the thread now asks something else.
    """
    if spec.command is None or spec.thread_id is None:
        return spec
    records = StoredRecords(app.store, home_of(settings))
    thread, questions = await records.thread(spec.thread_id), list[JsonObject]()
    if spec.retry_of is None and thread is not None and (questions := await open_questions(records, thread)):
        answer_to(questions, spec.command.get("resume"), thread_id=spec.thread_id)
    if not await remembers_question(app, agent, spec.thread_id):
        await find_paused_run(records, spec.thread_id)
        standing = "nor remember what it asked: an export leaves out what threads remember"
        raise not_waiting(spec.thread_id, standing)
    return replace(spec, command=None) if is_stop(questions) else spec


def _completed(app: App, spec: RunSpec) -> RunSpec:
    """The run with the context that a server would give a graph. A repeated run got its context the first time."""
    completed = completed_of(app.manager.agents[spec.agent])
    if completed is None or spec.retry_of is not None:
        return spec
    config, context = completed(spec.config, spec.context)
    return replace(spec, config=config, context=context)


async def _start(app: App, spec: RunSpec) -> RunHandle:
    try:
        return await app.manager.start(spec)
    except ThreadBusyError as exc:  # only an answer is refused for that reason
        raise not_waiting(exc.details["thread_id"], STANDINGS[ThreadStatus.busy]) from exc
    except TracksideError as exc:
        if exc.fault != "store":
            raise
        raise NotRecordedError(why=_clause(exc)) from exc


def _clause(failure: BaseException | None) -> str:
    """The message of a failure, phrased to continue a sentence after a colon."""
    text = line_of(failure)
    return text[0].lower() + text[1:] if text.startswith(("The ", "There ", "All ", "Transactions ")) else text


async def _result(handle: RunHandle, view: View) -> RunResult | None:
    """Show what the run streams, to its end; None if it was told twice to stop and did not."""
    shown = asyncio.create_task(_show_stream(handle, view), name="trackside-cli-stream")
    ended = asyncio.create_task(handle.result(), name="trackside-cli-result")
    with StopSignals(handle, view.stopping) as signals:
        insisted = asyncio.create_task(signals.insisted.wait(), name="trackside-cli-stop")
        await asyncio.wait({ended, insisted}, return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        if not ended.done():
            await asyncio.wait({ended}, timeout=_GRACE)
        if not ended.done():
            shown.cancel()
            return None
    try:
        await shown
    except Exception as exc:  # noqa: BLE001  # it must not hide how the run ended
        logger.warning("what the run streamed cannot be shown: %s", exc)
    return ended.result()


async def _show_stream(handle: RunHandle, view: View) -> None:
    async for part in handle.stream():
        view.part(part)


async def _leave(app: App, handle: RunHandle, view: View, settings: Settings) -> NoReturn:
    """Record the run's end, and end the process although the agent still runs in it: whoever asks twice means it.

    A normal exit would wait for the agent's threads.
    """
    left = f"the agent did not stop and was left behind: run {handle.run_id}"
    app.manager.abandon(handle.run_id, _LEFT_BEHIND)
    try:
        async with asyncio.timeout(_RECORDED_WITHIN):
            result = await handle.result()
    except (TracksideError, TimeoutError) as exc:
        left += f" has no end in the database ({str(exc).rstrip('.') or 'it takes no more'})"
    else:
        view.finish(result, home_of(settings))
    view.__exit__(None, None, None)
    say_what_is_spooled(app.recorder, handle.run_id)
    standard_error().print(left, soft_wrap=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(ExitCode.cancelled)


async def _find_ended(settings: Settings, run: str) -> tuple[StoredRun, JsonObject, str]:
    """An ended run, its request, and the thread to repeat it on: a new one if its own ended with the run."""
    async with open_store(settings, create=False) as store:
        ended, request = await find_ended_run(StoredRecords(store, home_of(settings)), run)
        await check_that_it_answers(store, ended.run_id, request, thread_id=ended.thread_id)
        is_gone = request.get("thread_ends") and await store.thread(ended.thread_id) is None
        return ended, request, new_id() if is_gone else ended.thread_id


async def _find_paused(settings: Settings, thread: str) -> tuple[StoredRun, list[JsonObject], JsonObject]:
    async with open_store(settings, read_only=True) as store:
        records = StoredRecords(store, home_of(settings))
        paused, questions = await find_paused_run(records, thread)
        return paused, questions, await stops_behind(records, paused, questions)
