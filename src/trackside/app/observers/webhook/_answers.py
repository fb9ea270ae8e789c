"""What a receiver's answer, or a connection without one, means for the event and its subscription."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from trackside.app.delivery import DeliveryError, retry_after_seconds
from trackside.app.masking import without_secrets
from trackside.app.observers.webhook._addresses import AddressRefusedError
from trackside.harness.observer import RunLifecycleEvent

__all__ = ["Answer", "Masked", "Receiver", "connect_seconds", "read_start"]

_AWAY: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_READ_BYTES: Final = 2_048
_READ_SECONDS: Final = 1.0
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered, as far as it was read."""

    status: int
    headers: Mapping[str, str]
    start: bytes

    @property
    def takes(self) -> bool:
        """Whether the answer says that the event was taken."""
        return 200 <= self.status < 300


class Masked:
    """Makes a receiver's words fit to show: one short line, without what nobody must read."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._shown = dict.fromkeys(secrets, "…")

    def __call__(self, text: str) -> str:
        text = without_secrets(text, self._shown)
        words = "".join(character if character.isprintable() else " " for character in text).split()
        line = " ".join(words)
        return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}…"


async def read_start(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of an answer, for people. Anything that comes after them, or too slowly, is never read.

    The status has already said all that counts, so how the rest ends does not matter.
    """
    start = bytearray()
    try:
        async with asyncio.timeout(_READ_SECONDS):
            while more := await response.content.read(_READ_BYTES - len(start)):  # reading 0 bytes returns nothing
                start += more
    except (aiohttp.ClientError, TimeoutError):
        pass
    return bytes(start)


@dataclass(frozen=True, slots=True)
class Receiver:
    """The receiver of events, as a `DeliveryError` describes it.

    Args:
        name: its name, without what nobody must read.
        masked: makes its own words fit to show.
        timeout: how many seconds it has.
    """

    name: str
    masked: Masked
    timeout: float

    def refusal(self, event: RunLifecycleEvent, answer: Answer, now: datetime) -> DeliveryError:
        """What an answer means that does not say that the event was taken."""
        status = answer.status
        retry_after = retry_after_seconds(answer.headers.get("Retry-After"), now)
        refuse = partial(self.did_not_take, event, retry_after=retry_after)
        why, words = f"it answered {_named(status)}", _words(answer, self.masked)
        if 300 <= status < 400:
            target = _direction(answer.headers.get("Location"), self.masked)
            return refuse(f"{why}{target}, and redirects are not followed; change the url", retryable=False)
        if status == HTTPStatus.GONE:
            return refuse(f"{why}{words}: it wants no more events", disables=True)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return refuse(f"{why}{words}; set max_bytes to what it takes", retryable=False)
        return refuse(f"{why}{words}", away=status in _AWAY)

    def failure(self, event: RunLifecycleEvent, exc: Exception, *, closing: bool) -> DeliveryError:
        """What it means that a request had no answer, or that we are `closing` and did not wait for one.

        The words are our own: those of aiohttp contain the whole URL, which may hold a secret.
        """
        fail = partial(self.did_not_take, event)
        match exc:
            case aiohttp.ClientConnectorError(os_error=AddressRefusedError() as refused):
                return fail(f"no connection was made: {refused}")
            case aiohttp.ConnectionTimeoutError():
                return fail(f"no connection within {connect_seconds(self.timeout):g} s", away=True)
            case TimeoutError():
                return fail(f"no answer within {self.timeout:g} s")
            case aiohttp.ClientConnectorDNSError(os_error=cause):
                return fail(f"its name could not be resolved: {_reason(cause)}", away=True)
            case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
                return fail(f"its certificate cannot be trusted: {_reason(cause)}", away=True)
            case aiohttp.ClientConnectorSSLError(os_error=cause):
                return fail(f"TLS failed: {_reason(cause)}", away=True)
            case aiohttp.ClientConnectorError(os_error=cause):
                return fail(f"it cannot be reached: {_reason(cause)}", away=True)
            case aiohttp.ClientResponseError():
                return fail("its answer is not HTTP, or its headers are too long")
            case _:
                # It may have the event: one that crashes it each time counts, so others do not wait for ever.
                return fail("the connection ended without an answer", away=closing)

    def did_not_take(
        self,
        event: RunLifecycleEvent,
        why: str,
        *,
        retryable: bool = True,
        away: bool = False,
        retry_after: float | None = None,
        disables: bool = False,
    ) -> DeliveryError:
        """The error to raise for an event."""
        return DeliveryError(
            receiver=self.name,
            what=f"{event.event_type.value} {event.sequence} of run {event.run_id}",
            why=why,
            retryable=retryable,
            away=away,
            retry_after=retry_after,
            disables=disables,
        )


def connect_seconds(timeout: float) -> float:
    """How much of a request's time connecting may take: less than all, to tell which of the two failed."""
    return timeout / 2


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "SSL error").replace("_", " ").lower()
    if isinstance(exc, OSError) and exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno)  # asyncio adds words of its own to the text
    return (isinstance(exc, OSError) and exc.strerror) or type(exc).__name__


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _direction(location: str | None, masked: Masked) -> str:
    """Where a redirect points to, without its query."""
    if not location:
        return ""
    try:
        target = URL(location).with_query(None).with_fragment(None)
        return f" to {masked(str(target.with_user(None) if target.absolute else target))}"
    except ValueError:
        return ""


def _words(answer: Answer, masked: Masked) -> str:
    """What the body says, if people can read it."""
    if "Content-Encoding" in answer.headers:
        return ""
    text = masked(answer.start.decode(errors="replace"))
    return f' ("{text}")' if text else ""
