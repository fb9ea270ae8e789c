"""Transports of OpenLineage's library, made as options say, so that each of them says what became of an event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, override
from urllib.parse import urlsplit

import requests
from openlineage.client.transport import Transport, get_default_factory
from openlineage.client.transport.composite import CompositeTransport
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpTransport
from openlineage.client.transport.kafka import KafkaTransport

from trackside.app.bounded_answers import bound_answers
from trackside.app.delivery import LONGEST_TRY, ObserverOptionError
from trackside.app.options import checked_number, checked_text

__all__ = ["INTEGRATION", "SIDE_BY_SIDE", "PartlySent", "made_of", "named", "parts_of", "posting"]

INTEGRATION: Final = "TRACKSIDE"
"""Who sends, by the library's name for it."""
SIDE_BY_SIDE: Final = 8
"""How many events may be sent at once."""
_KAFKA_SECONDS: Final = LONGEST_TRY / SIDE_BY_SIDE
"""For one message. All others being sent wait for it, and together they fit into the time that each of them has."""
_ONCE: Final[dict[str, Any]] = {"retry": {"total": 0, "status_forcelist": []}}
"""How often a posting transport tries an event, in the form of its table: its subscription tries again later."""
_PARTLY_SENT: Final = 10_000
"""How many events are remembered that only some parts of a composite transport have."""


def posting(url: Any, api_key: Any, timeout: Any) -> dict[str, Any]:
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


def made_of(transport: Any, option: str, partly: PartlySent) -> Transport:
    """The library's transport, made as an option says; what has several knows by `partly` which have an event already."""
    if not isinstance(transport, Mapping) or not isinstance(transport.get("type"), str):
        raise ObserverOptionError(option="transport", why="it is a table with a `type`, as `http` or `file`")
    try:
        made = get_default_factory().create(_posting_once(transport))
    except Exception as exc:
        # The library raises whatever it comes across, and its messages about values may contain secrets.
        raise ObserverOptionError(option=option, why=f"the library does not take it: {type(exc).__name__}") from exc
    for part in parts_of(made):
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
        if isinstance(part, CompositeTransport):
            part.transports[:] = [_Once(each, partly) for each in part.transports]
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


def parts_of(transport: Any) -> Iterator[Any]:
    """A transport, and those to which it passes events on."""
    yield transport
    passed_on_to = (getattr(transport, name, None) for name in ("transport", "http"))
    for inner in (*getattr(transport, "transports", ()), *passed_on_to):
        if isinstance(inner, Transport):
            yield from parts_of(inner)


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
            if integration.lower() in {"*", INTEGRATION.lower()}
        ):
            return "leave our events out of async_transport_rules"
        case _:
            return None


class PartlySent:
    """Which parts of composite transports have events that others of them did not take. For one thread at a time."""

    def __init__(self) -> None:
        self._having: OrderedDict[str, set[_Once]] = OrderedDict()
        self.present: set[_Once] = set()
        """The parts that have the event that is being sent."""

    @contextmanager
    def trying(self, event_id: str) -> Generator[None]:
        """Send an event in here, for the first time or again; when all have it, that is forgotten."""
        self.present = self._having.pop(event_id, set())
        try:
            yield
        except BaseException:
            if self.present:
                self._having[event_id] = self.present
            if len(self._having) > _PARTLY_SENT:
                self._having.popitem(last=False)
            raise


class _Once(Transport):
    """A part of a composite transport; it is not given again what it has, when the event is tried again for others."""

    kind = "once"

    def __init__(self, transport: Transport, partly: PartlySent) -> None:
        self.transport = transport
        self._partly = partly

    @override
    def emit(self, event: Any) -> None:
        if self not in self._partly.present:
            self.transport.emit(event)
            self._partly.present.add(self)

    @override
    def close(self, timeout: float = -1) -> bool:
        return self.transport.close(timeout)

    @override
    def __str__(self) -> str:
        return str(self.transport)


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


def named(transport: Transport, kind: str) -> str:
    """The name of the receiver, without the credentials that a URL may contain."""
    if not isinstance(transport, HttpTransport):
        return kind
    parts = urlsplit(transport.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
