"""Tells OpenLineage about runs, so that data teams see agent runs beside their jobs.

An agent is a job there, and its run a run of that job: `run_started` is a START, `run_completed` a COMPLETE, `run_failed` a
FAIL, `run_cancelled` an ABORT. A run that waits for a human is complete, too, because it is over, and the answer starts
another run; a facet says that it was interrupted.

The observer uses the library's transports, but not its client, which would add to each event what it finds in the
environment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from trackside.app.daemon_threads import DaemonThreads
from trackside.app.delivery import LONGEST_TRY, Delivery, DeliveryError, ObserverOptionError, Order, retry_after_seconds
from trackside.app.options import checked_number, checked_text
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.failures import line_of
from trackside.harness.lifecycle import run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

try:
    import attr
    import requests
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import JobFacet, RunFacet, error_message_run, job_type_job, parent_run
    from openlineage.client.transport import Transport, get_default_factory
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpTransport
    from openlineage.client.transport.kafka import KafkaTransport
    from urllib3.exceptions import NewConnectionError, ReadTimeoutError

    from trackside.app.bounded_answers import bound_answers
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"OpenLineage needs {missing.name}, which is not installed: pip install 'trackside[openlineage]'",
        name=missing.name,
    ) from missing

__all__ = ["OpenLineageObserver", "TracksideRunFacet"]

_PRODUCER: Final = "urn:trackside"
_INTEGRATION: Final = "TRACKSIDE"
_OURS: Final[dict[str, Any]] = {"producer": _PRODUCER}  # for facets, whose classes have it under another name
_RUN_IDS: Final = uuid5(NAMESPACE_URL, "urn:trackside:run")
_KNOWN_AGENTS: Final = 10_000
_SIDE_BY_SIDE: Final = 8
_CLOSE_SECONDS: Final = 2.0
_TIMEOUT: Final = 5.0
_KAFKA_SECONDS: Final = LONGEST_TRY / _SIDE_BY_SIDE
"""For one message. All others being sent wait for it, and together they fit into the time that each of them has."""
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

_ONCE: Final[dict[str, Any]] = {"retry": {"total": 0, "status_forcelist": []}}
"""How often a posting transport tries an event, in the form of its table: its subscription tries again later."""
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
    concurrency: ClassVar[int] = _SIDE_BY_SIDE
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
            transport = _posting(url, api_key, _TIMEOUT if timeout is None else timeout)
        elif api_key is not None:
            raise ObserverOptionError(option="api_key", why="it is for `url`; a transport has its own `auth`")
        elif timeout is not None:
            raise ObserverOptionError(option="timeout", why="it is for `url`; a transport has a `timeout` of its own")
        self._transport = _made_of(transport, "url" if url is not None else "transport")
        self._timeout = self._transport.timeout if isinstance(self._transport, HttpTransport) else None
        self._composites = sum(part.kind == "composite" for part in _parts_of(self._transport))
        self._receiver = _named(self._transport, transport["type"])
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
            await asyncio.get_running_loop().run_in_executor(self._threads, self._transport.emit, said)
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
                await asyncio.to_thread(self._transport.close, _CLOSE_SECONDS)

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
                processingType="BATCH", integration=_INTEGRATION, jobType="AGENT", **_OURS
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


def _posting(url: Any, api_key: Any, timeout: Any) -> dict[str, Any]:
    """The configuration of a transport that posts."""
    if not isinstance(url, str) or not _is_address(url):
        raise ObserverOptionError(option="url", why="it is http:// or https:// and a host, without credentials")
    if "?" in url or "#" in url:
        why = "it has a query (?) or a fragment (#), which would not be sent; a key goes into `api_key`"
        raise ObserverOptionError(option="url", why=why)
    seconds = checked_number("timeout", timeout, least=0.1, most=LONGEST_TRY)
    # Without a slash at the end, the library would replace the last part of the path.
    said: dict[str, Any] = {"type": "http", "url": f"{url.rstrip('/')}/", "timeout": seconds}
    if api_key is not None:
        said["auth"] = {"type": "api_key", "apiKey": checked_text("api_key", api_key)}
    return said


def _is_address(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False


def _made_of(transport: Any, option: str) -> Transport:
    """The library's transport, made as an option says."""
    if not isinstance(transport, Mapping) or not isinstance(transport.get("type"), str):
        raise ObserverOptionError(option="transport", why="it is a table with a `type`, as `http` or `file`")
    try:
        made = get_default_factory().create(_posting_once(transport))
    except Exception as exc:
        # The library raises whatever it comes across, and its messages about values may contain secrets.
        raise ObserverOptionError(option=option, why=f"the library does not take it: {type(exc).__name__}") from exc
    for part in _parts_of(made):
        if (why := _why_silent(part)) is not None:
            made.close(0)
            raise ObserverOptionError(option=option, why=f"{part.kind} does not say what became of an event; {why}")
        if isinstance(part, HttpTransport):
            checked_number(f"{option}.timeout", part.timeout, least=0.1, most=LONGEST_TRY)
            if not _can_send(part):
                made.close(0)
                why = (
                    "its url, a key or a header cannot be sent; there may be a line break at the end of one, or a character"
                    " beyond Latin-1 in it, as … in a key that is shown shortened"
                )
                raise ObserverOptionError(option=option, why=why)
            bound_answers(part.session).trust_env = False  # neither proxies nor `.netrc`
        if isinstance(part, KafkaTransport):
            part.producer = _ReportingProducer(part.producer)
    return made


def _posting_once(said: Any) -> Any:
    """A transport's table, or several; at any depth, those that post do so once per event, unless they set that."""
    if isinstance(said, (list, tuple)):
        return [_posting_once(each) for each in said]
    if not isinstance(said, Mapping):
        return said
    if not isinstance(said.get("type"), str):
        return {name: _posting_once(each) for name, each in said.items()}
    table = (_ONCE if said["type"] in {"http", "datadog"} else {}) | {**said}
    return table | {key: _posting_once(table[key]) for key in ("transport", "transports") if key in table}


def _parts_of(transport: Any) -> Iterator[Any]:
    """A transport, and those to which it passes events on."""
    yield transport
    passed_on_to = (getattr(transport, name, None) for name in ("transport", "http"))
    for inner in (*getattr(transport, "transports", ()), *passed_on_to):
        if isinstance(inner, Transport):
            yield from _parts_of(inner)


def _can_send(transport: HttpTransport) -> bool:
    """Whether requests can be made with its address and headers, as far as these are known without asking anybody."""
    auth = transport.config.auth
    headers: dict[str, Any] = {"Authorization": auth.get_bearer()} if isinstance(auth, ApiKeyTokenProvider) else {}
    try:
        request = requests.Request("POST", transport.url, headers=headers | transport.config.custom_headers).prepare()
        for name, value in request.headers.items():
            name.encode("ascii")  # as the connection does, which would otherwise be the first to fail
            if isinstance(value, str):
                value.encode("latin-1")
    except (requests.RequestException, UnicodeEncodeError, TypeError):  # a TypeError is from headers that are no table
        return False
    return True


def _why_silent(transport: Any) -> str | None:
    """What to write instead of a transport that accepts events it does not pass on; None if this is not one."""
    match transport.kind:
        case "async_http":
            return "take http"
        case "noop":  # the library also makes this of every other one if its variable says so
            return "unset OPENLINEAGE_DISABLED, or leave the observer out"
        case "composite" if transport.config.continue_on_failure:
            return "say continue_on_failure = false"
        case "kafka" | "msk-iam" if not transport.flush:
            return "leave out flush = false"
        case "datadog" if any(
            any(kinds.values())
            for integration, kinds in transport.config.async_transport_rules.items()
            if integration.lower() in {"*", _INTEGRATION.lower()}
        ):
            return "leave our events out of async_transport_rules"
        case _:
            return None


class _ReportingProducer:
    """A Kafka producer that raises an error if a message was not taken: the library's transport only logs that."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._reports: list[Any] = []

    def produce(self, **message: Any) -> None:
        """Give the producer a message, as the transport does."""
        reports = self._reports = list[Any]()
        self._producer.produce(**message | {"on_delivery": lambda error, _: reports.append(error)})

    def flush(self, timeout: float) -> int:
        """Wait for messages; the transport calls this after each message, without a time limit, and when it is closed.

        Raises:
            OSError: nobody takes messages now.
            RuntimeError: this one was not taken.
        """
        if timeout >= 0:
            return int(self._producer.flush(timeout))
        left = int(self._producer.flush(_KAFKA_SECONDS))
        if not self._reports:
            self._producer.purge()  # otherwise each try would add another copy
            raise TimeoutError(f"it did not take it within {_KAFKA_SECONDS:.0f} s")
        (error,) = self._reports
        if error is None:
            return left
        said = f"{error.str()} ({error.name()})"
        if error.code() < 0 or "AUTHORIZATION" in error.name():  # the client's own error, such as no connection
            raise ConnectionError(said)
        raise RuntimeError(said)


def _named(transport: Transport, kind: str) -> str:
    """The name of the receiver, without the credentials that a URL may contain."""
    if not isinstance(transport, HttpTransport):
        return kind
    parts = urlsplit(transport.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


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
