"""What the harness asks of the app: protocols that storage, brokers and clocks implement.

`trackside.harness.memory` implements all of them in one process. It is the embedded default and the test double, and
passes the same conformance suite as the databases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    JsonObject,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)


class Clock(Protocol):
    """The source of time, so that tests can control it. Any thread may ask it."""

    def now(self) -> datetime:
        """The wall clock, aware UTC: for people. It may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow: for durations and deadlines."""
        ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(monotonic)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's name for a request, and what was asked for: the same key with another body is a mistake."""

    key: str
    body: str


class Admission(NamedTuple):
    """How a run was let in.

    * `ready` says that the run may be claimed now; otherwise it waits until `RunCoordinator.release` of another run
      names it.
    * `existing` says that the idempotency key named a run that exists already; `record` is that run's, and nothing is
      new.
    * `displaced` are runs that have to make room under `interrupt` or `rollback`. A pending one is withdrawn, so the
      caller has to announce its end; the running one has been asked to stop.
    * `elsewhere` says that another process executes the run: there is nothing more to do about it here.
    """

    record: RunRecord
    ready: bool
    existing: bool = False
    displaced: Sequence[RunRecord] = ()
    elsewhere: bool = False


class Claim(NamedTuple):
    """The right to execute a run. `thread_status` is the thread's status as last announced.

    `new_thread` says that this run began its thread, so that there is nothing to remember of it.
    """

    record: RunRecord
    thread_status: ThreadStatus
    new_thread: bool = False


class Settlement(NamedTuple):
    """What the end of a run means for its thread, while the run still holds it; `retried_as` is the run that continues
    for it.
    """

    previous: ThreadStatus
    status: ThreadStatus
    retried_as: str | None = None


class PriceList(Protocol):
    """What model calls cost."""

    def cost_usd(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read_tokens: int, reasoning_tokens: int
    ) -> float | None:
        """The price of one call in US dollars; None if the model is not known, which is not the same as 0.

        `cache_read_tokens` are part of the input, `reasoning_tokens` of the output. A price list whose method also
        takes `cache_write_tokens`, which are part of the input, is told of them where there are any. One with an
        argument `provider` is told who bills for the model, where that is known. Called for each model call, from any
        thread.
        """
        ...


class RunHost(Protocol):
    """Executes runs: what a coordinator tells its manager, besides answers.

    The methods are called on the event loop; none of them may wait or raise.
    """

    @property
    def agents(self) -> Collection[str]:
        """The names of the agents whose runs it can take over from others."""
        ...

    def on_ready(self, run_id: str) -> None:
        """A waiting run of this host may be claimed now: it is due, or another process has given its thread back."""
        ...

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        """These runs have to make room for a run that has become due; as `Admission.displaced`."""
        ...

    def on_cancel(self, run_id: str, action: CancelAction) -> None:
        """Somebody else has asked a run of this host to stop."""
        ...

    def on_lost(self, run_id: str) -> None:
        """A run is no longer this host's: its code has to stop, and nothing it says counts.

        Either somebody else has ended it (its process was taken for dead, or it was cancelled while it was pending),
        and `RunCoordinator.get` knows how; or another process has taken it over while it was pending.
        """
        ...

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> bool | None:
        """A pending run whose process is gone, or that was nobody's, is now this host's; if `ready`, it may be claimed.

        Return False if the host is closing and somebody else has to have the run.
        """
        ...


class RunCoordinator(Protocol):
    """Decides which run may execute, and when: one active run per thread, held where all workers look.

    A run is admitted (pending), then claimed by compare-and-set (running) or withdrawn, then settled once its code has
    really stopped, and released after its terminal event is durable. It holds its thread until the release.

    `durable` says whether a pending run outlives the process. A coordinator that never waits for anything may say so
    with an attribute `immediate = True`, which saves its callers work. One whose steps are finished once begun, even if
    the task that takes them is cancelled meanwhile, may say so with `steady = True`. Others are wrapped in tasks that
    see to that.

    A durable coordinator starts runs anew as other runs, as far as their specs' `max_attempts` go: a run whose worker
    is lost, and one that was shut down (`settle`), but never one that was asked to cancel. The new attempt is a pending
    run of the same thread, with the next `attempt` and its `retry_of`, for any host that knows the agent.

    A coordinator may have further methods:

    * `lose(run_id)`, which does not wait, for one that learns from a log how runs end. It is called after the release
      of a run whose end could neither be written there nor be kept for later. Nobody will ever say how that run ended,
      so it has to be ended like a run whose worker is lost.
    * `give_up(run_id)`, which does not wait either: for a run that it gave to be executed, and whose start a required
      observer refused with a `TakenOverError`. If the run comes back, it is given anew (`on_adopted`).
    * A coroutine `holder(thread_id)`, which says which run has a thread, from its admission on, or None. With it, an
      answer to a human's question that comes while a run goes on is no answer to what that run asks later.

    The caller that took a step may repeat it, and gets the same answer: a reply can be lost on its way, and a closing
    event loop can cut off the task that takes the step (`steady`). A step that was cut off but has happened does not
    happen a second time.
    """

    durable: bool

    def attach(self, host: RunHost) -> None:
        """Name the manager that executes what is admitted here. Once, before anything else."""
        ...

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        """Let a run in under `record.multitask`; all or nothing. A known key gives the run that it named before.

        A run with `record.due_at` neither holds its thread nor waits for it before that time. Then it takes its place
        as if it came in now (under `reject` it waits, as nobody could be told any more); `RunHost.on_ready` says so.
        Under `interrupt` and `rollback`, a run that comes in displaces runs that are not due, whether it is due itself
        or not; a run that becomes due displaces none of them.

        Args:
            record: the run.
            spec: what was asked for, so that another process can execute the run when this one is gone; without it
                nobody can. Where threads are kept, it also says whose the thread has to be (`RunSpec.owner`).
            idempotency: the caller's name for the request.

        Raises:
            ThreadBusyError: the strategy is `reject` and the thread has an active or waiting run.
            DuplicateRunError: the run id is taken.
            UnknownThreadError: the coordinator keeps threads, and for the spec's owner there is no such thread.
            InvalidSpecError: the idempotency key was used with another body.
        """
        ...

    async def claim(self, run_id: str) -> Claim | None:
        """Take a pending run, at the head of its thread's queue, for execution; None if it cannot be had.

        After None, a host that does not end the run itself asks `get` once. If the run has not ended, the coordinator
        says what becomes of it: `RunHost.on_lost`, `on_cancel`, or `on_ready` if it can be claimed after all.
        """
        ...

    async def withdraw(self, run_id: str) -> bool:
        """Take a run that is still pending out of the queue for good, without executing it.

        Returns True to exactly one caller, which then announces its end and calls `release`; False if the run is no
        longer pending. After a failure at its turn, the host waits for `RunHost.on_ready` to try again.
        """
        ...

    async def settle(
        self,
        run_id: str,
        status: RunStatus,
        *,
        at_rest: ThreadStatus | None = None,
        error: str | None = None,
        title: str | None = None,
        completion_data: Mapping[str, Any] | None = None,
        shut_down: bool = False,
    ) -> Settlement:
        """Record how a claimed or withdrawn run ends, and learn what its thread's status becomes.

        `at_rest` is the thread's status if nobody waits; if left out, it follows from the run's status. The thread
        stays held and `get` says nothing yet, as the end is not durable before its event is. Until then this may be
        called again with another status, and the last one counts: what a run leaves in its thread is written meanwhile,
        which may fail.

        A run that was `shut_down` is started anew by a durable coordinator if it has attempts left. The settlement
        names the other run, which is let in when an end that says so, as `retried_as`, is durable.
        """
        ...

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        """The end of a run is durable: give its thread back and learn which run may be claimed next.

        If nobody waits any more although `announced` is busy, the thread stays held, and `Release.settlement` says what
        has to be announced before the next try.
        """
        ...

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        """Record that a run should stop. A pending run will never be claimed after this; an ended one stays as it is.

        Raises:
            UnknownRunError: there is no such run.
        """
        ...

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        """Record, for those who look from outside, since when a claimed run has not stopped although it was cancelled."""
        ...

    async def get(self, run_id: str) -> RunRecord | None:
        """What is known about a run."""
        ...


class Release(NamedTuple):
    """What became of a thread that was given back: the next run to claim, or what has to be announced first."""

    next_run_id: str | None = None
    settlement: Settlement | None = None


@dataclass(frozen=True, slots=True)
class StreamPart:
    """One piece of a run's live output. `sequence` counts 1, 2, 3 … within the run's stream.

    `mode` is the usual word for what `data` is: values, updates, messages, custom, and so on. `namespace` names the
    sub-graph that it comes from, outermost first.
    """

    sequence: int
    mode: str
    data: Any
    namespace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamGap:
    """Parts that a follower came too late for, as they have left the run's buffer. Or parts that never came; `why`, if
    known.
    """

    first: int
    last: int
    why: str | None = None


class RunStream(Protocol):
    """The live output of runs: bounded, shared by all followers, never durable.

    A stream that has only the output of this process's runs says so with an attribute `local = True`: then nobody is
    left waiting there for output of another process's run, unless a method `is_mirrored(run_id)` says that it comes. A
    stream that wants to know whose output it gets has a method `begin(run, spec, *, started)`. It is called before
    anything else of a run that has just been announced as `started`, or that ends without.
    """

    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        """Append a part. This does not block, and does not fail for a follower's sake."""
        ...

    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        """No more parts will come; every follower, even a later one, gets to the end. This does not block and does not
        fail.

        `end` is what the run's last event says, if the run's own process closes the stream: that event is durable by
        now. An end that could be kept nowhere is not told; how the run has ended is then what the log comes to say of
        it.
        """
        ...

    def follow(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """The parts after `after` (None: all that are kept), then live ones, until the run has ended."""
        ...


class EventSpan(NamedTuple):
    """The events of a run from one sequence number to another, both included."""

    run_id: str
    first: int
    last: int

    @property
    def sequences(self) -> range:
        """The numbers of these events."""
        return range(self.first, self.last + 1)


class RunLog(Protocol):
    """Where announced events can be read again, equal to what they were.

    The events of an optional observer that is behind wait there, instead of in memory (`BufferedObserver`). The log has
    to have them by the time that optional observers are told: it is what a required observer writes.
    """

    async def read(self, spans: Sequence[EventSpan]) -> Sequence[RunLifecycleEvent]:
        """The events of these spans that the log has, in any order, without those that it does not have (any more).

        At most a few hundred events are asked for at once. This may raise, and is then asked again.
        """
        ...


@dataclass(slots=True)
class ThreadState:
    """What a thread remembers for agents that have no checkpointer of their own.

    `values` is the last output; `paused` is what is needed to continue after an interrupt.
    """

    values: JsonObject = field(default_factory=dict)
    paused: PausedRun | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedRun:
    """A run that waits for a human, in a form that survives the process.

    It holds the run's input, the answers that it got so far, the open questions, what its agent's framework needs to
    continue (`AgentResult.paused`), and the name of the agent that asks.
    """

    input: Any
    answers: Sequence[Any] = ()
    interrupts: Sequence[Mapping[str, Any]] = ()
    state: Any = None
    agent: str | None = None


class ThreadStates(Protocol):
    """What threads remember: a checkpointer for agents that are plain functions.

    One that never waits for anything may say so with an attribute `immediate = True`, which saves its callers work.
    """

    async def load(self, thread_id: str) -> ThreadState | None:
        """What the thread remembers; None for a new one."""
        ...

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        """Remember this from now on.

        `run_id` is the run that saves it. Where others can end runs, a run that they have ended is refused: the thread
        may have gone on since.
        """
        ...


__all__ = [
    "Admission",
    "CancelAction",
    "Claim",
    "Clock",
    "EventSpan",
    "IdempotencyKey",
    "MultitaskStrategy",
    "PausedRun",
    "PriceList",
    "Release",
    "RunCoordinator",
    "RunHost",
    "RunLog",
    "RunStream",
    "Settlement",
    "StreamGap",
    "StreamPart",
    "SystemClock",
    "ThreadState",
    "ThreadStates",
]
