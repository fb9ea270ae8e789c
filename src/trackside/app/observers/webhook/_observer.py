"""The observer that posts events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp.abc import AbstractResolver

from trackside.app.daemon_threads import DaemonThreads
from trackside.app.delivery import LONGEST_TRY, Delivery, Order
from trackside.app.observers.webhook._addresses import Reach
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
from trackside.app.observers.webhook._posting import Poster
from trackside.app.observers.webhook._signing import Signer
from trackside.app.options import checked_flag, checked_headers, checked_number
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Clock, SystemClock

__all__ = ["WebhookObserver"]


class WebhookObserver:
    """Posts each event to `url`, signed as Standard Webhooks specifies, until the receiver answers 2xx.

        WebhookObserver(url="https://example.org/hook", secret="whsec_…")

    `webhook-id` is the event's id in each attempt, and the body has the same bytes each time; `webhook-timestamp` is
    the time of the attempt. A failure is raised as `DeliveryError`, and the subscription tries again. Redirects are not
    followed, only the beginning of an answer is read, and proxies and `.netrc` of the environment are ignored.

    Args:
        url: the receiver's address.
        secret: `whsec_…` or the Base64 behind it, of 24 to 64 bytes; or two secrets, the newer one first, while
            receivers change from one to the other: each request has both signatures.
        format: `trackside`, or `cloudevents` for CloudEvents in structured mode.
        timeout: seconds for a whole request; a subscription itself gives up after 30. Connecting may take half of it.
        max_bytes: how large a body may be; the payload of a larger event is cut and marked.
        headers: more headers. Their values are secret.
        allow_private_addresses: whether the receiver may be on this machine or in a private network, where `http://` is
            allowed, too.
        allow_http: whether events may also go in the clear to public addresses.
        ca_file: certificates (PEM) of those who certify the receiver, instead of those that this machine trusts.

    Raises:
        ObserverOptionError: one of these does not fit.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.none
    concurrency: ClassVar[int] = 32
    attempts: ClassVar[int] = 15
    """About six minutes, with the pauses of a subscription: receivers fail while they are being deployed."""

    clock: ClassVar[Clock] = SystemClock()
    """The clock for the time of an attempt. A subclass may have another one."""
    resolver: ClassVar[type[AbstractResolver]] = SystemResolver
    """Looks names up. A subclass may have another one: whatever address it finds is checked before it is connected to."""

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
        address = url_of(url)
        private = checked_flag("allow_private_addresses", allow_private_addresses)
        in_the_clear = checked_flag("allow_http", allow_http)
        reach = Reach(private=private, public=in_the_clear or address.scheme == "https")
        check_host(address, reach)
        signer = Signer(secret)
        largest = checked_number("max_bytes", max_bytes, least=1_024, most=67_108_864, whole=True)
        self._body = BodyWriter(format_of(format), largest)
        self._cutting = DaemonThreads("trackside-webhook-cutting", one_by_one=True)
        own_headers = checked_headers(
            "headers", headers, is_ours=is_our_header, owner="the connection or to the signature"
        )
        self._poster = Poster(
            address,
            reach=reach,
            signer=signer,
            timeout=checked_number("timeout", timeout, least=0.1, most=LONGEST_TRY),
            headers={**own_headers, "Content-Type": self._body.content_type},
            tls=tls_context(ca_file, address),
            secrets=secrets_in(address, own_headers, secret or ()),
            clock=self.clock,
            resolver=self.resolver,
        )

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Post one event. May be called while others are being posted.

        Raises:
            DeliveryError: the receiver did not take it.
            ClosedError: after `aclose`.
        """
        try:
            body = self._body.write(event)
            if body is None:
                body = await asyncio.get_running_loop().run_in_executor(self._cutting, self._body.cut, event)
        except BodyTooLargeError:
            why = "it does not fit into max_bytes, not even without its payload"
            raise self._poster.receiver.did_not_take(event, why, retryable=False) from None
        await self._poster.post(event, body)

    async def aclose(self) -> None:
        """Close all connections; events that are being posted fail as if the receiver were away. May be called again."""
        await self._poster.aclose()
