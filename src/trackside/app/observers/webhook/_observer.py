"""The observer that posts events."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver

from trackside.app.delivery import Delivery, Order
from trackside.app.observers.webhook._addresses import GuardedResolver, Reach
from trackside.app.observers.webhook._answers import Answer, Masked, Receiver, connect_seconds, read_start
from trackside.app.observers.webhook._body import BodyTooLargeError, BodyWriter
from trackside.app.observers.webhook._lookup import SystemResolver
from trackside.app.observers.webhook._options import (
    check_host,
    format_of,
    is_our_header,
    secrets_in,
    tls_context,
    url_of,
)
from trackside.app.observers.webhook._signing import Signer
from trackside.app.options import checked_flag, checked_headers, checked_number
from trackside.harness.errors import ClosedError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Clock, SystemClock

__all__ = ["WebhookObserver"]

_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z_-]+")
_IDLE_SECONDS: Final = 4.0
"""Less than what servers wait for another request (Node.js and Uvicorn: 5), so that none is sent as they hang up."""
_AS_ONE_PIECE: Final = 1_048_576
"""Bytes of a body that aiohttp sends at once without complaint."""


class WebhookObserver:
    """Posts each event to `url`, signed as Standard Webhooks says, until the receiver answers 2xx.

        WebhookObserver(url="https://example.org/hook", secret="whsec_…")

    `webhook-id` is the event's id in each attempt, and the body has the same bytes each time; `webhook-timestamp` is the
    time of the attempt. What fails is raised as `DeliveryError`, and its subscription tries again. Redirects are not
    followed, nothing of an answer is read but its beginning, and proxies and `.netrc` of the environment do not count.

    Args:
        url: where to.
        secret: `whsec_…` or the Base64 behind it, of 24 to 64 bytes; or two, the newer one first, while receivers change
            from one to the other: each request has both signatures.
        format: `trackside`, or `cloudevents` for CloudEvents in structured mode.
        timeout: seconds for a whole request; a subscription itself gives up after 30. Half of it may go to connecting.
        max_bytes: of a body; the payload of a larger event is cut and marked.
        headers: more headers. Their values are secret.
        allow_private_addresses: whether the receiver may be on this machine or in a private network, where
            `http://` will do, too.
        allow_http: whether events may go in the clear to public addresses, too.
        ca_file: certificates (PEM) of those who certify the receiver, instead of those that this machine trusts.

    Raises:
        ObserverOptionError: one of these does not fit.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.none
    concurrency: ClassVar[int] = 32
    attempts: ClassVar[int] = 15
    """About six minutes, with the pauses of a subscription: receivers fail while they are deployed."""

    clock: ClassVar[Clock] = SystemClock()
    """What time an attempt is made at. A subclass may have another one."""
    resolver: ClassVar[type[AbstractResolver]] = SystemResolver
    """Who looks names up. A subclass may have another one: whatever it finds is judged before it is connected to."""

    def __init__(
        self,
        *,
        url: str,
        secret: str | Sequence[str] | None = None,
        format: str = "trackside",
        timeout: float = 15.0,
        max_bytes: int = 1_048_576,
        headers: Mapping[str, str] | None = None,
        allow_private_addresses: bool = False,
        allow_http: bool = False,
        ca_file: str | None = None,
    ) -> None:
        self._url = url_of(url)
        private = checked_flag("allow_private_addresses", allow_private_addresses)
        in_the_clear = checked_flag("allow_http", allow_http)
        self._reach = Reach(private=private, public=in_the_clear or self._url.scheme == "https")
        check_host(self._url, self._reach)
        self._signer = Signer(secret)
        self._timeout = checked_number("timeout", timeout, least=0.1, most=25)
        largest = checked_number("max_bytes", max_bytes, least=1_024, most=67_108_864, whole=True)
        self._body = BodyWriter(format_of(format), largest)
        own_headers = checked_headers(
            "headers", headers, is_ours=is_our_header, owner="the connection or to the signature"
        )
        self._headers = {
            **own_headers,
            "Accept-Encoding": "identity",
            "Content-Type": self._body.content_type,
            "User-Agent": "Trackside",
        }
        self._tls = tls_context(ca_file, self._url)
        masked = Masked(secrets_in(self._url, own_headers, secret or ()))
        self._receiver = Receiver(str(self._url.origin()), masked, self._timeout)
        self._session: aiohttp.ClientSession | None = None
        self._names: GuardedResolver | None = None
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Post one event. May be called while others are being posted.

        Raises:
            DeliveryError: it was not taken.
            ClosedError: after `aclose`.
        """
        try:
            body = self._body.write(event)
        except BodyTooLargeError:
            why = "it does not fit into max_bytes, not even without its payload"
            raise self._receiver.did_not_take(event, why, retryable=False) from None
        try:
            answer = await self._post(_message_id(event.event_id), body)
        except (aiohttp.ClientError, TimeoutError) as exc:
            failure = self._receiver.failure(event, exc, closing=self._closed)
        else:
            if answer.takes:
                return
            failure = self._receiver.refusal(event, answer, self.clock.now())
        raise failure  # outside of the handler: what aiohttp says has the whole URL

    async def aclose(self) -> None:
        """Close all connections; what is being posted fails as if the receiver were away. May be called again."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
        if self._names is not None:
            await self._names.close()

    async def _post(self, message_id: str, body: bytes) -> Answer:
        now = self.clock.now()
        headers = {
            **self._headers,
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.signatures(message_id, now, body),
        }
        data = body if len(body) <= _AS_ONE_PIECE else io.BytesIO(body)
        posted = self._opened().post(self._url, data=data, headers=headers, allow_redirects=False)
        async with posted as response:
            start = b"" if response.content.at_eof() else await read_start(response)
            return Answer(response.status, response.headers, start)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError(what="webhook")
        if self._session is None:
            self._names = GuardedResolver(self.resolver(), self._reach)
            connector = aiohttp.TCPConnector(
                ssl=self._tls,
                resolver=self._names,
                socket_factory=self._reach.open_socket,
                ttl_dns_cache=0,  # only those who ask at the same time share an answer
                limit=0,  # how many there are is for the subscription to say
                keepalive_timeout=_IDLE_SECONDS,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout, connect=connect_seconds(self._timeout)),
                auto_decompress=False,
            )
        return self._session


def _message_id(event_id: str) -> str:
    """The event's id as a header can have it: other people's harnesses may have ids with anything in them."""
    return event_id if _PLAIN_ID.fullmatch(event_id) else quote(event_id, safe="")
