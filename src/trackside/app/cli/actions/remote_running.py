"""The commands `run`, `resume` and `retry` on a running server, which executes the run while this process watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from trackside.app import attempts
from trackside.app.cli.actions.run_options import RunOptions, View
from trackside.app.cli.arguments import ArgumentError, read_answer, read_input, read_metadata
from trackside.app.cli.failures import EXIT_CODE_OF, ExitCode
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.places import say_away, when_there
from trackside.app.cli.records.lookup import STANDINGS, find_ended_run, find_paused_run, not_waiting, stops_behind
from trackside.app.cli.records.questions import answer_to, is_stop
from trackside.app.cli.records.remote import RemoteRecords
from trackside.app.cli.records.remote_connection import (
    Connection,
    RefusedError,
    RemoteError,
    connected,
    part_of_path,
    path_of_run,
)
from trackside.app.cli.records.remote_following import EventParser, ServerSentEvent
from trackside.app.cli.stopping import StopSignals, interrupt_on_stop_signals
from trackside.app.cli.views.jsonlines import JsonView
from trackside.app.cli.views.output import standard_error, standard_output
from trackside.app.cli.views.timeline import Timeline
from trackside.harness.errors import ThreadBusyError
from trackside.harness.ids import is_uuid, new_id
from trackside.harness.lifecycle import is_terminal, run_status_of
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import JsonObject, RunStatus, ThreadStatus

_SHOWN: Final = ("messages-tuple", "custom")
_SILENCE: Final = 60.0  # seconds without a heartbeat after which a stream counts as lost
_PAUSE: Final = 0.5  # seconds before a stream that was cut is resumed
_WITHOUT_END: Final = 5.0  # seconds by which the last pieces of output may follow the end of their run
_ENDS: Final = frozenset({"end", "error"})


class Started(msgspec.Struct):
    """What the server says about a run that it has admitted."""

    run_id: str
    thread_id: str


class _Gap(msgspec.Struct):
    first: int
    last: int


type Start = Callable[[Connection, RemoteRecords], Awaitable[Started]]


def run(server: str, agent: str, input: str | None, options: RunOptions, *, thread: str | None) -> ExitCode:
    """Have the server run one of its agents, and show it."""
    body = {"assistant_id": agent, "input": read_input(input), **_asked(options)}
    if thread is not None and not is_uuid(thread):
        raise ArgumentError(name="--thread", why=f"{thread!r} is not a UUID, as the ids of a server's threads are")

    async def start(connection: Connection, records: RemoteRecords) -> Started:
        return await _start(connection, new_id() if thread is None else thread, body)

    return _watch(server, options, start)


def resume(server: str, thread: str, answer: str, options: RunOptions, *, agent: str | None) -> ExitCode:
    """Answer the question of a thread on the server, and show it go on."""
    given, asked = read_answer(answer), _asked(options)

    async def start(connection: Connection, records: RemoteRecords) -> Started:
        paused, questions = await find_paused_run(records, thread)
        answered = answer_to(questions, given, thread_id=paused.thread_id)
        stops = await stops_behind(records, paused, questions)
        brings = {"input": None, **stops} if is_stop(questions) else {"command": {"resume": answered}}
        body = {"assistant_id": agent or paused.agent or "", **brings, **asked}
        try:
            return await _start(connection, paused.thread_id, {**body, "multitask_strategy": "reject"})
        except RefusedError as exc:
            if exc.code != ThreadBusyError.code:
                raise
            raise not_waiting(paused.thread_id, STANDINGS[ThreadStatus.busy]) from exc

    return _watch(server, options, start)


def retry(server: str, run: str, options: RunOptions, *, agent: str | None) -> ExitCode:
    """Have the server repeat what one of its runs was asked for, and show that."""
    _asked(options)
    for name, given in (("--agent", agent), ("--metadata", options.metadata), ("--stream", options.modes)):
        if given:
            raise ArgumentError(name=name, why="a server repeats the request exactly as it was; leave this out")

    async def start(connection: Connection, records: RemoteRecords) -> Started:
        ended, _ = await find_ended_run(records, run)
        path, headers = f"runs/{part_of_path(ended.run_id)}/retry", {"Idempotency-Key": new_id()}
        answer = await connection.ask("POST", path, headers=headers)
        return connection.decode(answer.body, Started)

    return _watch(server, options, start)


async def _start(connection: Connection, thread_id: str, body: JsonObject) -> Started:
    headers = {"Idempotency-Key": new_id()}
    path = f"threads/{part_of_path(thread_id)}/runs"
    answer = await connection.ask("POST", path, body=body, headers=headers)
    return connection.decode(answer.body, Started)


def _asked(options: RunOptions) -> JsonObject:
    """The options that were typed, in the form that the server takes.

    Raises:
        ArgumentError: an option is only for runs of this process.
    """
    limits = {
        "--timeout": options.timeout,
        "--max-tokens": options.max_tokens,
        "--max-cost": options.max_cost,
        "--max-llm-calls": options.max_llm_calls,
        "--max-tool-calls": options.max_tool_calls,
    }
    for name, given in limits.items():
        if given is not None:
            why = "a server bounds its runs by [limits] of its own trackside.toml; leave this out, or set it there"
            raise ArgumentError(name=name, why=why)
    options.check_modes()
    return {
        "metadata": read_metadata(options.metadata) or None,
        "stream_mode": list(dict.fromkeys((*_SHOWN, *map(str, options.modes)))),
        "stream_resumable": True,
        "if_not_exists": "create",
    }


def _watch(server: str, options: RunOptions, start: Start) -> ExitCode:
    interrupt_on_stop_signals()
    view: View = JsonView() if options.json else Timeline(standard_output())
    with view:
        code = run_loop(_follow, server, options, start, view)
    view.check()
    return code


async def _follow(server: str, options: RunOptions, start: Start, view: View) -> ExitCode:
    place = options.place
    async with connected(server, place.key, said_by=place.said_by) as connection:
        records = RemoteRecords(connection)
        started = await start(connection, records)
        watched = _Watched(connection, records, started, view)
        with StopSignals(watched, view.stopping) as signals:
            result = await watched.result(signals.insisted)
        if result is None:
            why = f": {watched.failure}" if watched.failure is not None else ""
            said = f"run {watched.run_id} was left to the server{why}"
            standard_error().print(said.rstrip("."), soft_wrap=True)
            return ExitCode.cancelled
        view.finish(result, connection.home)
        return EXIT_CODE_OF[result.status]


class _Watched:
    """A run of the server that is shown here and can be stopped: one attempt after another."""

    def __init__(self, connection: Connection, records: RemoteRecords, started: Started, view: View) -> None:
        self.run_id = started.run_id
        """The id of the attempt that is shown."""
        self.failure: RemoteError | None = None
        """Why the server could not be told to stop the run."""
        self._connection = connection
        self._records = records
        self._thread_id = started.thread_id
        self._view = view
        self._left = asyncio.Event()
        self._number = 0
        self._last_id: str | None = None
        """The id of the last piece of this attempt that was shown."""

    @property
    def _path(self) -> str:
        return path_of_run(self._thread_id, self.run_id)

    async def cancel(self) -> None:
        """Stop the run; if the server cannot be told, leave it alone."""
        try:
            await self._connection.ask("POST", f"{self._path}/cancel")
        except RemoteError as exc:
            self.failure = exc
            self._left.set()

    async def result(self, insisted: asyncio.Event) -> RunResult | None:
        """Show the run to its end; None if the person no longer waits for it."""
        shown = asyncio.create_task(self._show(), name="trackside-cli-show")
        left = [asyncio.create_task(event.wait(), name="trackside-cli-stop") for event in (insisted, self._left)]
        tasks: list[asyncio.Task[Any]] = [shown, *left]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return shown.result() if shown.done() else None
        finally:
            await _cancelled(*tasks)

    async def _show(self) -> RunResult:
        last = await self._show_attempt()
        while (again := attempts.named_in(last.payload)) is not None:
            self._view.go_on(again)
            self.run_id = again
            last = await self._show_attempt()
        return await self._result_of(last)

    async def _show_attempt(self) -> RunLifecycleEvent:
        """Show one attempt to its end, and return that end."""
        begun = asyncio.Event()
        stream = asyncio.create_task(self._show_stream(begun), name="trackside-cli-stream")
        try:
            last = await self._show_events(begun)
            await asyncio.wait({stream}, timeout=_WITHOUT_END)
        finally:
            await _cancelled(stream)
        return last

    async def _show_events(self, begun: asyncio.Event) -> RunLifecycleEvent:
        follower = self._records.follow(0, run_id=self.run_id, on_outage=self._say_away)
        try:
            async for stored in follower:
                await self._view.on_event(stored.event)
                begun.set()
                if is_terminal(stored.event.event_type):
                    return stored.event
        finally:
            follower.end()
        raise AssertionError  # nothing else ends the follower

    def _say_away(self, failure: Exception) -> None:
        self._view.away("the server")
        # The view's own message is on the live lines of a terminal, and nowhere else.
        if isinstance(self._view, JsonView) or not standard_output().is_live:
            say_away(failure)

    async def _result_of(self, last: RunLifecycleEvent) -> RunResult:
        status = run_status_of(last.event_type, last.payload) or RunStatus.cancelled
        # A server that stops lets runs end, and is away when they have.
        run = await when_there(lambda: self._records.run(self.run_id), self._say_away)
        output = None
        if status is RunStatus.success:
            answer = await when_there(lambda: self._connection.get(f"{self._path}/join"), self._say_away)
            said = msgspec.json.decode(answer.body)
            output = None if said == {} else said  # how servers say that there was no output
        return RunResult(
            self.run_id,
            self._thread_id,
            status,
            last.payload.get("error"),
            dict(last.payload.get("completion_data") or {}),
            None if run is None else run.title,
            output=output,
        )

    async def _show_stream(self, begun: asyncio.Event) -> None:
        """Show the run's live output; if the stream is cut, resume where it was. The run's events say the rest."""
        await begun.wait()
        self._last_id = None
        while True:
            try:
                if await self._show_connection():
                    return
            except RemoteError as exc:
                if exc.fault == "caller":  # another process has the run now, or the server no longer streams it
                    return
            await asyncio.sleep(_PAUSE)

    async def _show_connection(self) -> bool:
        """Show what one connection delivers; returns whether the stream has ended."""
        headers = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        path, parser = f"{self._path}/stream", EventParser()
        async with self._connection.stream("GET", path, silence=_SILENCE, headers=headers) as chunks:
            async for chunk in chunks:
                for said in parser.take(chunk):
                    self._last_id = said.id or self._last_id
                    if said.name in _ENDS:
                        return True
                    self._number += 1
                    if (part := _part_of(said, self._number)) is not None:
                        self._view.part(part)
        return False


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _part_of(said: ServerSentEvent, number: int) -> StreamPart | StreamGap | None:
    """A piece of output; None if it is about the stream itself."""
    mode, *namespace = said.name.split("|")
    if not said.data or mode in {"metadata", ""}:
        return None
    if mode == "gap":
        gap = msgspec.json.decode(said.data, type=_Gap)
        return StreamGap(gap.first, gap.last)
    return StreamPart(number, mode, msgspec.json.decode(said.data), tuple(namespace))
