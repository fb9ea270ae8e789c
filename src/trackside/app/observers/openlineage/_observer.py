"""The observer, and what it says of a run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import attr
import requests
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.facet_v2 import JobFacet, RunFacet, error_message_run, job_type_job, parent_run
from openlineage.client.transport.http import HttpTransport
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from trackside.app.daemon_threads import DaemonThreads
from trackside.app.delivery import Delivery, DeliveryError, ObserverOptionError, Order, retry_after_seconds
from trackside.app.observers.openlineage._transports import (
    INTEGRATION,
    SIDE_BY_SIDE,
    PartlySent,
    made_of,
    named,
    parts_of,
    posting,
)
from trackside.app.options import checked_text
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.failures import line_of
from trackside.harness.lifecycle import run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

__all__ = ["OpenLineageObserver", "TracksideRunFacet"]

_PRODUCER: Final = "urn:trackside"
_OURS: Final[dict[str, Any]] = {"producer": _PRODUCER}  # for facets, whose classes have it under another name
_RUN_IDS: Final = uuid5(NAMESPACE_URL, "urn:trackside:run")
_KNOWN_AGENTS: Final = 10_000
_CLOSE_SECONDS: Final = 2.0
_CLOSES: Final = DaemonThreads("trackside-openlineage-close")
_TIMEOUT: Final = 5.0
_STATES: Final = {
    LifecycleEventType.RUN_STARTED: RunState.START,
    LifecycleEventType.RUN_COMPLETED: RunState.COMPLETE,
    LifecycleEventType.RUN_FAILED: RunState.FAIL,
    LifecycleEventType.RUN_CANCELLED: RunState.ABORT,
}
_OUTAGES: Final = frozenset({401, 403, 407, 408, 425, 429, 502, 503, 504})
"""Answers that say nothing about the event: our identity is not accepted now, it is too much, or nobody is there."""
_UNSENDABLE: Final = (
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    UnicodeEncodeError,  # how the connection refuses a header
)
"""The settings make no valid request. The texts of these errors show settings, such as a key."""

_NOT_SENT: Final = (requests.RequestException, OSError, UnicodeEncodeError)  # a RequestException is an OSError

type _NotSent = requests.RequestException | OSError | UnicodeEncodeError


@attr.define(kw_only=True)
class TracksideRunFacet(RunFacet):
    """What Trackside knows about a run and OpenLineage has no field for, as the facet `trackside_run`."""

    runId: str  # noqa: N815  # as OpenLineage writes names
    """The run's id in Trackside; OpenLineage's is made of it if it is not a UUID."""
    threadId: str  # noqa: N815
    status: str
    trigger: str | None = None
    attempt: int | None = None
    parentRunId: str | None = None  # noqa: N815
    retryOf: str | None = None  # noqa: N815
    totalInputTokens: int | None = None  # noqa: N815
    totalOutputTokens: int | None = None  # noqa: N815
    llmCallCount: int | None = None  # noqa: N815
    toolCallCount: int | None = None  # noqa: N815
    durationSeconds: float | None = None  # noqa: N815
    costUsd: float | None = None  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return f"{_PRODUCER}:facets:1-0-0:TracksideRunFacet.json#/$defs/TracksideRunFacet"


class OpenLineageObserver:
    """Sends the start and the end of each run as an OpenLineage run event.

        OpenLineageObserver(url="https://marquez.example", api_key="…")
        OpenLineageObserver(transport={"type": "file", "log_file_path": "lineage.jsonl", "append": True})

    The job is the agent, in `namespace`. A run id that is a UUID is also the run's id there. From any other id a UUID
    is made, the same each time, so that an event that comes again changes nothing.

    Args:
        url: where to post the events, up to the path of the API, which is the library's (`api/v1/lineage`).
        api_key: the key for the receiver at `url`.
        transport: instead of these, a transport in the form of the library's own configuration, with its `type`. It has
            to say what became of an event.
        namespace: the namespace of the jobs.
        timeout: seconds for one request to `url`, half of which connecting may take; 5 if left out, and at most 25, as
            the subscription gives up after 30.

    Raises:
        ObserverOptionError: one of these does not fit.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.run
    concurrency: ClassVar[int] = SIDE_BY_SIDE
    attempts: ClassVar[int] = 15
    """About six minutes, with the pauses of a subscription: a transport may report an outage in words of its own."""
    events: ClassVar[tuple[LifecycleEventType, ...]] = tuple(_STATES)

    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        transport: Mapping[str, Any] | None = None,
        namespace: str = "trackside",
        timeout: float | None = None,
    ) -> None:
        if (url is None) == (transport is None):
            raise ObserverOptionError(option="url", why="set either this or `transport`")
        if transport is None:
            transport = posting(url, api_key, _TIMEOUT if timeout is None else timeout)
        elif api_key is not None:
            raise ObserverOptionError(option="api_key", why="it is for `url`; a transport has its own `auth`")
        elif timeout is not None:
            raise ObserverOptionError(option="timeout", why="it is for `url`; a transport has a `timeout` of its own")
        self._partly = PartlySent()
        self._transport = made_of(transport, "url" if url is not None else "transport", self._partly)
        self._timeout = self._transport.timeout if isinstance(self._transport, HttpTransport) else None
        self._composites = sum(part.kind == "composite" for part in parts_of(self._transport))
        self._receiver = named(self._transport, transport["type"])
        self._namespace = checked_text("namespace", namespace)
        self._agents: OrderedDict[str, str] = OrderedDict()
        # Only the transport for HTTP may be used by several threads at once.
        self._threads = DaemonThreads(
            "trackside-openlineage", one_by_one=not isinstance(self._transport, HttpTransport)
        )
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Send what the event says about its run, if it is a start or an end.

        Raises:
            DeliveryError: the receiver did not take it.
            ClosedError: the observer is closed.
        """
        if self._closed:
            raise ClosedError(what="OpenLineage observer")
        state = _STATES.get(event.event_type)
        if state is None:
            return
        said = self._run_event(event, state)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._emit, event.event_id, said)
        except (*_NOT_SENT, RuntimeError) as exc:
            cause: BaseException | None = exc
            for _ in range(self._composites):  # each raises an error of its own for one that was raised inside it
                cause = cause.__cause__ if isinstance(cause, RuntimeError) else cause
            if not isinstance(cause, _NOT_SENT):
                raise
            raise self._failure(event, cause) from exc

    async def aclose(self) -> None:
        """Close the transport; requests that are under way end by themselves. May be called again."""
        if self._closed:
            return
        self._closed = True
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.get_running_loop().run_in_executor(_CLOSES, self._transport.close, _CLOSE_SECONDS)

    def _emit(self, event_id: str, said: RunEvent) -> None:
        if not self._composites:
            self._transport.emit(said)
            return
        with self._partly.trying(event_id):
            self._transport.emit(said)

    def _run_event(self, event: RunLifecycleEvent, state: RunState) -> RunEvent:
        facets: dict[str, RunFacet] = {"trackside_run": _run_facet(event)}
        parent = _text(event.payload.get("parent_run_id"))
        if parent is not None and (agent := self._agents.get(parent)) is not None:
            facets["parent"] = parent_run.ParentRunFacet(
                run=parent_run.Run(runId=_uuid_of(parent)),
                job=parent_run.Job(namespace=self._namespace, name=agent),
                **_OURS,
            )
        if (error := _text(event.payload.get("error"))) is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=error,
                programmingLanguage="python",
                stackTrace=_text(event.payload.get("traceback")),
                **_OURS,
            )
        kind: dict[str, JobFacet] = {
            "jobType": job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration=INTEGRATION, jobType="AGENT", **_OURS
            )
        }
        return RunEvent(
            eventType=state,
            eventTime=event.occurred_at.isoformat(),
            run=Run(runId=_uuid_of(event.run_id), facets=facets),
            job=Job(namespace=self._namespace, name=self._agent_of(event), facets=kind),
            producer=_PRODUCER,
        )

    def _agent_of(self, event: RunLifecycleEvent) -> str:
        """The agent of a run. Ends name it, too; those of other harnesses may not, so it is remembered for a while."""
        agent = _text(event.payload.get("agent")) or self._agents.get(event.run_id, "unnamed")
        self._agents[event.run_id] = agent
        self._agents.move_to_end(event.run_id)
        if len(self._agents) > _KNOWN_AGENTS:
            self._agents.popitem(last=False)
        return agent

    def _failure(self, event: RunLifecycleEvent, exc: _NotSent) -> DeliveryError:
        what = f"{event.event_type.value} of run {event.run_id}"
        answer = exc.response if isinstance(exc, requests.HTTPError) else None
        if answer is None:
            if isinstance(exc, _UNSENDABLE):
                why = f"what is set for it cannot be sent: {type(exc).__name__}"
            elif isinstance(_cause(exc), ReadTimeoutError):
                why = "no answer in time" if self._timeout is None else f"no answer within {self._timeout:g} s"
            else:
                why = line_of(exc)
            return DeliveryError(receiver=self._receiver, what=what, why=why, away=_was_not_reached(exc))
        status = answer.status_code
        return DeliveryError(
            receiver=self._receiver,
            what=what,
            why=f"it answered {status} {answer.reason}".rstrip(),
            retryable=status >= 500 or status in _OUTAGES,
            away=status in _OUTAGES,
            retry_after=retry_after_seconds(answer.headers.get("Retry-After"), datetime.now(UTC)),
        )


def _was_not_reached(exc: _NotSent) -> bool:
    """Whether nothing was sent; otherwise the receiver may fail because of the event."""
    if isinstance(exc, _UNSENDABLE):
        return True
    if not isinstance(exc, requests.RequestException):
        return True  # a file that cannot be written to
    if isinstance(exc, (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)):
        return True
    return isinstance(_cause(exc), NewConnectionError)


def _cause(exc: Exception) -> object:
    """What was raised in the library below `requests`."""
    cause = exc.args[0] if exc.args else None
    return getattr(cause, "reason", cause)


def _run_facet(event: RunLifecycleEvent) -> TracksideRunFacet:
    payload = event.payload
    data = payload.get("completion_data")
    counts: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    status = run_status_of(event.event_type, payload) or RunStatus.running
    return TracksideRunFacet(
        runId=event.run_id,
        threadId=event.thread_id,
        status=status.value,
        trigger=_text(payload.get("trigger")),
        attempt=_number(payload.get("attempt")),
        parentRunId=_text(payload.get("parent_run_id")),
        retryOf=_text(payload.get("retry_of")),
        totalInputTokens=_number(counts.get("total_input_tokens")),
        totalOutputTokens=_number(counts.get("total_output_tokens")),
        llmCallCount=_number(counts.get("llm_call_count")),
        toolCallCount=_number(counts.get("tool_call_count")),
        durationSeconds=_number(counts.get("duration_seconds")),
        costUsd=_number(counts.get("cost_usd")),
        **_OURS,
    )


def _uuid_of(run_id: str) -> str:
    try:
        known = str(UUID(run_id))
    except ValueError:
        known = ""
    return known if known == run_id.lower() else str(uuid5(_RUN_IDS, run_id))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> Any:
    return value if type(value) in {int, float} else None
