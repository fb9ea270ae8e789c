"""What can go wrong in the harness, and who has to do something about it.

Every error of Trackside derives from `TracksideError`. The docstring of a class *is* the template of its message. The
keyword arguments of its constructor fill it and stay readable as attributes, so a handler never parses text.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar, Literal

type Fault = Literal["caller", "agent", "observer", "store"]
"""Who has to act: the caller, the author of the agent or of the observer, or whoever runs the store."""


_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


_MOST_BITS = 14_000
"""A number with this many bits or more is not said in digits, of which Python itself writes at most 4,300."""


class TracksideError(Exception):
    """Trackside could not go on: {why}."""

    code: ClassVar[str] = "trackside"
    """The code of this kind of error, such as `thread-busy`, by which you look it up in the documentation and with
    `trackside explain`. It is made of the name of the class, unless the class says `code="…"` among its bases, as one
    of two classes with the same name has to. If it is empty, there is nothing to explain.
    """
    fault: ClassVar[Fault] = "caller"
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later without anybody changing anything."""

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        super().__init_subclass__()
        cls.code = _WORDS.sub("-", cls.__name__.removesuffix("Error")).lower() if code is None else code

    def __init__(self, **details: Any) -> None:
        self.__dict__.update(details)
        self.details = details
        template = inspect.cleandoc(type(self).__doc__ or "")  # empty under `python -OO`
        said = {name: _sayable(value) for name, value in details.items()}
        super().__init__(template.format(**said) if template else f"{type(self).__name__}: {said}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.details)


def _sayable(value: Any) -> Any:
    return hex(value) if type(value) is int and value.bit_length() >= _MOST_BITS else value


def _rebuild(kind: type[TracksideError], details: dict[str, Any]) -> TracksideError:
    return kind(**details)


class NotAnObserverError(TracksideError, TypeError):
    """{passed} is not an observer: {why}. Pass an object with `async def on_event(self, event)`, or an async function that takes one event."""  # noqa: E501


class NotObserversError(TracksideError, TypeError):
    """{passed} does not list observers: pass a list of them, as `[StorageObserver(store)]`, or a `CompositeObserver`."""


class NotAnAgentError(TracksideError, TypeError):
    """{passed} is not an agent: {why}. Pass an async function, a function or an async generator function, of the input or of the input and the run, a compiled LangGraph graph, or an agent of the OpenAI Agents SDK or of Pydantic AI."""  # noqa: E501


class InvalidSpecError(TracksideError, ValueError):
    """{field} = {value!r} does not fit a run: {why}."""


class UnknownNodeError(InvalidSpecError):
    """{field} = {value!r:.120}: {why}."""


class InvalidUsageError(InvalidSpecError):
    """{field} = {value!r} is not the usage of a model: {why}."""

    fault = "agent"


class InvalidCallError(InvalidSpecError):
    """{field} = {value!r} does not describe a call: {why}."""

    fault = "agent"


class InvalidReportError(InvalidSpecError):
    """{field} = {value!r} cannot be reported of a run: {why}."""

    fault = "agent"


class NotASpecError(TracksideError, TypeError):
    """{passed} does not say what to run: pass a `RunSpec`, as `RunSpec("agent", "input")`."""


class NotAgentsError(TracksideError, TypeError):
    """{passed} does not name agents: pass a mapping of names to agents, as `{{"chat": agent}}`."""


class UnknownAgentError(TracksideError, LookupError):
    """There is no agent named {name!r}; known are: {known}."""


class UnknownRunError(TracksideError, LookupError):
    """There is no run {run_id!r} here: its id is wrong, or it ended long ago and only the log still knows it."""


class UnknownThreadError(TracksideError, LookupError):
    """There is no thread {thread_id!r}: its id is wrong, or it was removed."""


class ThreadExistsError(TracksideError, ValueError):
    """Thread id {thread_id!r} is taken: an id names one thread for ever. Leave it out, or pass a new one."""


class ThreadInUseError(TracksideError):
    """Thread {thread_id!r} has a run that has not ended, {run_id!r}: cancel it first, or wait for it, and then remove the thread."""  # noqa: E501


class RunInUseError(TracksideError):
    """Run {run_id!r} has not ended: cancel it first, or wait for it, and then remove it."""


class UnknownCheckpointError(TracksideError, LookupError):
    """Thread {thread_id!r} has no checkpoint {checkpoint_id!r}."""


class UnshownStateError(TracksideError):
    """The agent cannot show a state of thread {thread_id}: {why:.600}."""


class AgentFailedError(TracksideError):
    """The agent {agent!r} failed when it was asked about itself or a thread: {why:.600}."""

    fault = "agent"


class DuplicateRunError(TracksideError, ValueError):
    """Run id {run_id!r} is taken: an id names one run. Leave it out, or pass a new one."""


class ThreadBusyError(TracksideError):
    """Thread {thread_id!r} is busy with run {run_id!r}; wait for it, or cancel it. Another run can be started all the same, with another multitask strategy than "reject"."""  # noqa: E501


class BusyMeanwhileError(ThreadBusyError):
    """Run {run_id!r} began on thread {thread_id!r} while its state was changed, and may not have seen the change; look at the state when the run is over, and change it again if it is not there."""  # noqa: E501


class HeldByCallerError(ThreadBusyError):
    """Thread {thread_id!r} is busy with run {run_id!r}, which cannot end before this call does, so the call would wait for ever; leave `thread_id` out, or pass another thread's."""  # noqa: E501


class NoResultHereError(TracksideError):
    """Run {run_id!r} has no result here: {why}. `RunManager.get` and the log know how it ends."""


class WaitsForItselfError(TracksideError):
    """Run {run_id!r} would wait for ever: it has to end before run {awaited!r}, which is {who}, does. Do not wait for that in it, or start it on a thread of its own."""  # noqa: E501


class ClosesItselfError(WaitsForItselfError):
    """Run {run_id!r} would wait for itself: its manager closes when its runs have ended. Start the close in a task, as `asyncio.create_task(manager.aclose())`, and let the run end."""  # noqa: E501


class NoStreamHereError(TracksideError):
    """Run {run_id!r} has no live output here: {why}. `RunManager.get` and the log know how far it is."""


class NotPausedError(TracksideError):
    """Thread {thread_id!r} does not wait for an answer, so there is nothing to resume; start a run with an input."""


class OtherAgentAsksError(NotPausedError):
    """Thread {thread_id!r} waits for an answer to {asks!r}, and {agent!r} has asked nothing; start the run that brings the answer with {asks!r}."""  # noqa: E501


class RunDepthError(TracksideError):
    """A run that was started by a run that was started by a run … is {depth} deep, which is the limit; an observer or agent probably starts itself."""  # noqa: E501


class ClosedError(TracksideError):
    """This {what} is closed and takes nothing more."""


class PayloadError(TracksideError, ValueError):
    """The value at {path} cannot be kept: {why}."""


class EventOrderError(TracksideError, ValueError):
    """Event {sequence} ({event_type}) of run {run_id!r} does not follow: {why}."""


class TakenOverError(EventOrderError):
    """Run {run_id!r} cannot be started by this process: {why}."""

    fault = "store"


class AgentOutputError(TracksideError, TypeError):
    """The agent {agent!r} gave back something that is not a result: {why}."""

    fault = "agent"


class NoAnswerError(TracksideError):
    """The agent {agent!r} came to an end, but no call of a model was ever answered, the last one because of {cause}."""

    fault = "agent"


class ErrorOutputError(TracksideError):
    """The last word of the agent {agent!r} is an error: {why}."""

    fault = "agent"


class UnknownQuestionError(InvalidSpecError):
    """Thread {thread_id!r} waits for {open}, and not for an answer to {unknown}."""


class UnknownInterruptError(UnknownQuestionError):
    """Thread {thread_id!r} waits for {open}, and not for an answer to {unknown}."""

    @property
    def refusal(self) -> dict[str, Any]:
        """What LangGraph's error of this name contains: why, for which questions, and which ones are open."""
        says = self.details
        return {
            "reason": "not_pending",
            "interrupt_ids": says.get("interrupt_ids", ()),
            "pending_ids": says.get("pending_ids", ()),
        }


class UnansweredError(InvalidSpecError):
    """Thread {thread_id!r} waits for answers to several questions: pass a mapping of ids to answers; open are {open}."""


class ThreadMemoryError(TracksideError):
    """What thread {thread_id!r} remembers could not be used: {why}."""

    fault: ClassVar[Fault] = "store"


class ThreadNotLoadedError(ThreadMemoryError):
    """The agent was not called, and what its thread {thread_id!r} remembers could not be loaded: {why}."""


class ThreadNotSavedError(ThreadMemoryError):
    """The agent {did}, but its thread {thread_id!r} does not remember it: {why}."""


class ThreadNotRolledBackError(ThreadMemoryError):
    """The agent was stopped, but its thread {thread_id!r} could not be rolled back and may remember some of what it did: {why}."""  # noqa: E501


class NotWaitedForError(TracksideError, TimeoutError, code=""):
    """The manager closed and no longer waited for it; it may still be done."""

    fault = "store"


class ObserverTimeoutError(TracksideError, TimeoutError):
    """Observer {observer} did not finish within {seconds:g} s and was left behind."""

    fault = "observer"
    retryable = True


class ObserverCancelledError(TracksideError):
    """Observer {observer} raised CancelledError although nobody had cancelled it."""

    fault = "observer"
    retryable = True


class ObserverExitError(TracksideError):
    """Observer {observer} tried to end the process with {cause!r}; only the observer failed."""

    fault = "observer"


class InvalidBufferError(TracksideError, ValueError):
    """A buffer with {option} = {value!r} cannot work: {why}."""


class OtherLoopError(TracksideError, RuntimeError):
    """The buffer of observer {observer} is in use on another running event loop; give each loop a buffer of its own."""


class ManagerLoopError(TracksideError, RuntimeError):
    """This run manager is in use on another event loop; call it there (`asyncio.run_coroutine_threadsafe`), or make one for each loop."""  # noqa: E501

    fault = "caller"


class ObserverStuckError(TracksideError):
    """Observer {observer} has {calls} calls that it neither finishes nor lets be cancelled; until one of them ends it gets no events."""  # noqa: E501

    fault = "observer"
    retryable = True
