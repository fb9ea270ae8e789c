"""Posts bodies to one receiver: guarded, signed if there is a secret, and with a result that says what became of each."""

from __future__ import annotations

import io
import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from trackside.app.observers.webhook._addresses import GuardedResolver, Reach
from trackside.app.observers.webhook._answers import Answer, Masked, Receiver, connect_seconds, read_start
from trackside.app.observers.webhook._lookup import SystemResolver
from trackside.app.observers.webhook._options import check_host, secrets_in, url_of
from trackside.app.observers.webhook._signing import Signer
from trackside.harness.errors import ClosedError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Clock, SystemClock

__all__ = ["Poster", "poster_to"]

_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z_-]+")
_IDLE_SECONDS: Final = 4.0
"""Less than servers wait for another request (Node.js and Uvicorn: 5), so that none is sent as they hang up."""
_AS_ONE_PIECE: Final = 1_048_576
"""Bytes of a body that aiohttp sends at once without complaint."""


class Poster:
    """Posts events to one address.

    Args:
        url: the receiver's address.
        reach: which addresses may be connected to.
        signer: signs what is sent; None: nothing is signed.
        timeout: seconds for a whole request.
        headers: headers of each request.
        tls: how the receiver proves who it is.
        secrets: what is hidden wherever the receiver's answer contains it.
        clock: the clock for the time of an attempt.
        resolver: looks names up.
    """

    def __init__(
        self,
        url: URL,
        *,
        reach: Reach,
        signer: Signer | None,
        timeout: float,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | bool,
        secrets: Iterable[str],
        clock: Clock | None = None,
        resolver: type[AbstractResolver] = SystemResolver,
    ) -> None:
        self.receiver = Receiver(str(url.origin()), Masked(secrets), timeout)
        self._url = url
        self._reach = reach
        self._signer = signer
        self._timeout = timeout
        self._headers = {**headers, "Accept-Encoding": "identity", "User-Agent": "Trackside"}
        self._tls = tls
        self._clock = clock or SystemClock()
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._names: GuardedResolver | None = None
        self._closed = False

    async def post(self, event: RunLifecycleEvent, body: bytes) -> None:
        """Post an event, and wait for the answer. May be called while others are being posted.

        Raises:
            DeliveryError: the receiver did not take it.
            ClosedError: after `aclose`.
        """
        try:
            answer = await self._post(_message_id(event.event_id), body)
        except (aiohttp.ClientError, TimeoutError) as exc:
            failure = self.receiver.failure(event, exc, closing=self._closed)
        else:
            if answer.takes:
                return
            failure = self.receiver.refusal(event, answer, self._clock.now())
        raise failure  # outside the handler: aiohttp's error has the whole URL

    async def aclose(self) -> None:
        """Close all connections; events that are being posted fail as if the receiver were away. May be called again."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
        if self._names is not None:
            await self._names.close()

    async def _post(self, message_id: str, body: bytes) -> Answer:
        now = self._clock.now()
        headers = {**self._headers, "webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.signatures(message_id, now, body)
        data = body if len(body) <= _AS_ONE_PIECE else io.BytesIO(body)
        posted = self._opened().post(self._url, data=data, headers=headers, allow_redirects=False)
        async with posted as response:
            start = b"" if response.content.at_eof() else await read_start(response)
            return Answer(response.status, response.headers, start)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError(what="webhook")
        if self._session is None:
            self._names = GuardedResolver(self._resolver(), self._reach)
            connector = aiohttp.TCPConnector(
                ssl=self._tls,
                resolver=self._names,
                socket_factory=self._reach.open_socket,
                ttl_dns_cache=0,  # only lookups at the same time share an answer
                limit=0,  # the subscription decides how many there are
                keepalive_timeout=_IDLE_SECONDS,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout, connect=connect_seconds(self._timeout)),
                auto_decompress=False,
            )
        return self._session


def poster_to(url: str, *, secret: str | None, private: bool, private_by: str, timeout: float = 15.0) -> Poster:
    """Make a `Poster` of JSON to an address that was named by somebody other than the operator.

    Args:
        url: the receiver's address.
        secret: the secret that signs what is sent; None: it is not signed.
        private: whether the address may be on this machine or in a private network, where `http://` is also allowed.
        private_by: what would allow that, in the words of messages.
        timeout: seconds for a whole request.

    Raises:
        ObserverOptionError: there is no such address, or nothing may be sent there.
    """
    address = url_of(url)
    reach = Reach(private=private, public=address.scheme == "https", private_by=private_by, public_by="")
    check_host(address, reach)
    return Poster(
        address,
        reach=reach,
        signer=None if secret is None else Signer(secret),
        timeout=timeout,
        headers={"Content-Type": "application/json"},
        tls=True,
        secrets=secrets_in(address, {}, secret or ()),
    )


def _message_id(event_id: str) -> str:
    """The event's id in a form for a header: ids from other people's harnesses may contain anything."""
    return event_id if _PLAIN_ID.fullmatch(event_id) else quote(event_id, safe="")
