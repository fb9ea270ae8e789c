"""Publishes to streams of Redis or Valkey.

Redis itself knows an entry that comes again only from 8.6 on, by a number of ids that is soon used up, and Valkey does not.
So each entry is added by a script, which both run as one step: it looks for a key that has the event's id, adds the entry
if there is none, and then sets the key, which ends by itself. Adding comes first: what fails between the two comes again,
and is then there twice rather than not at all.

Whatever waits goes to the server at once, on one connection: as many callers as there are share the way there and back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from redis.asyncio import Redis, SSLConnection
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as ConnectionLostError

from trackside.app.broker_access import Address, Login
from trackside.app.delivery import DeliveryError
from trackside.app.observers.broker._message import Message, Outcome, too_large
from trackside.harness.errors import ClosedError
from trackside.harness.failures import line_of

__all__ = ["RedisStreams"]

_ADD: Final = """
local seen = redis.call('GET', KEYS[2])
if seen then return seen end
local id
if ARGV[2] == '' then
    id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
else
    id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
end
redis.call('SET', KEYS[2], id, 'PX', ARGV[1])
return id
"""
_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 4_194_304
_CLOSE_SECONDS: Final = 2.0
_LIMIT: Final = 536_870_912
"""Bytes of a value that a server takes which does not say what its limit is: the usual one."""


class RedisStreams:
    """A `Broker`: one server, with a stream for each topic."""

    def __init__(
        self,
        address: Address,
        *,
        login: Login,
        ca_file: str | None,
        timeout: float,
        max_length: int | None,
        duplicate_window: float,
    ) -> None:
        self._shown = str(address)
        self._window = str(round(1_000 * duplicate_window))
        self._max_length = "" if max_length is None else str(max_length)
        self._timeout = timeout
        self._client = Redis.from_pool(_pool(address, login, ca_file, timeout))
        self._limit: int | None = None
        self._waiting: deque[tuple[_Group, Message]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def publish(self, messages: Sequence[Message]) -> Outcome:
        """Have the messages added with what others want to add now, and wait for the server's answers."""
        group = _Group(len(messages))
        self._waiting.extend((group, message) for message in messages)
        if self._sender is None or self._sender.done():
            # Not in the context of whoever happens to ask: it works for others, too (I21).
            self._sender = asyncio.create_task(self._send(), name="trackside-broker-redis", context=Context())
        try:
            async with asyncio.timeout(self._timeout):
                await group.done
        except TimeoutError:
            if group.is_settled:  # in the very turn of the loop in which the time was up
                return group.taken, group.failure
            why = f"it did not answer within {self._timeout:g} s"
            return group.taken, self._away(messages[group.taken].what, why)
        return group.taken, group.failure

    async def aclose(self) -> None:
        """Close the connection."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        while self._waiting:
            group, _ = self._waiting.popleft()
            group.settle(ClosedError(what="broker observer"))
        with suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.aclose()

    async def _send(self) -> None:
        """Add what waits, until nothing does."""
        while self._waiting:
            chunk: list[tuple[_Group, Message]] = []
            try:
                if self._limit is None:
                    self._limit = await self._ask_limit()
                chunk = self._next_chunk(self._limit)
                answers = await self._add([message for _, message in chunk])
            except asyncio.CancelledError:
                for group, _ in chunk:
                    group.settle(ClosedError(what="broker observer"))
                raise
            except Exception as exc:  # noqa: BLE001  # the server's failure, or its client's: told to all who wait for it
                self._limit = None
                chunk += self._waiting
                self._waiting.clear()
                answers = [exc] * len(chunk)
            for (group, message), answer in zip(chunk, answers, strict=True):
                group.settle(self._failure(message, answer) if isinstance(answer, Exception) else None)

    def _next_chunk(self, limit: int) -> list[tuple[_Group, Message]]:
        """What goes to the server at once; of a group none behind one that is not taken."""
        chunk: list[tuple[_Group, Message]] = []
        size = 0
        while self._waiting and len(chunk) < _AT_ONCE and size < _BYTES_AT_ONCE:
            group, message = self._waiting[0]
            if not group.done.done():  # else its caller has left, or one before this was not taken
                if len(message.body) <= limit:
                    chunk.append((group, message))
                    size += len(message.body)
                elif chunk:
                    break
                else:
                    refusal = too_large(message, receiver=self._shown, size=len(message.body), limit=limit)
                    group.settle(refusal)
            self._waiting.popleft()
        return chunk

    async def _add(self, messages: Sequence[Message]) -> list[Any]:
        """The server's answers, of which some may be exceptions."""
        if not messages:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for message in messages:
            # A cluster keeps the two keys of one script on one server, by what is in braces.
            seen = f"{{{message.topic}}}:seen:{message.event_id}"
            fields: dict[str, str | bytes] = {"event_id": message.event_id, **message.attributes, "event": message.body}
            parts: list[str | bytes] = [part for field in fields.items() for part in field]
            pipeline.eval(_ADD, 2, message.topic, seen, self._window, self._max_length, *parts)
        return await pipeline.execute(raise_on_error=False)

    async def _ask_limit(self) -> int:
        """How many bytes a value may have."""
        try:
            said = await self._client.config_get("proto-max-bulk-len")
            return int(said["proto-max-bulk-len"] or _LIMIT)
        except (ResponseError, KeyError, ValueError):  # not everybody may ask
            return _LIMIT

    def _failure(self, message: Message, exc: Exception) -> Exception:
        """What a failure of the server is to the message: never its own fault."""
        match exc:
            case AuthenticationError():
                return self._away(message.what, f"it does not let us in: {line_of(exc)}")
            case NoPermissionError():
                return self._away(message.what, f"it does not allow that: {line_of(exc)}")
            case ResponseError():
                code = getattr(exc, "status_code", None)
                return self._away(message.what, f"{code}: {line_of(exc)}" if code else line_of(exc))
            case RedisError() | OSError():
                return self._away(message.what, line_of(exc))
            case _:
                return exc

    def _away(self, what: str, why: str) -> DeliveryError:
        return DeliveryError(receiver=self._shown, what=what, why=why, away=True)


class _Group:
    """What one caller publishes at once."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self.failure: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    @property
    def is_settled(self) -> bool:
        """Whether it is known of all its messages, or of one that was not taken."""
        return self.failure is not None or not self._left

    def settle(self, failure: Exception | None) -> None:
        """The next of its messages was taken, or why not."""
        self._left -= 1
        if self.failure is None:
            self.failure = failure
            self.taken += failure is None
        if self.is_settled and not self.done.done():
            self.done.set_result(None)


def _pool(address: Address, login: Login, ca_file: str | None, timeout: float) -> ConnectionPool:
    secured: dict[str, Any] = {"ssl_ca_certs": ca_file} if address.is_secure else {}
    return ConnectionPool(
        connection_class=SSLConnection if address.is_secure else Connection,
        host=address.host,
        port=address.port,
        db=int(address.path[1:] or 0),
        username=login.username,
        password=login.password,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # A connection that was closed while nobody used it is made anew at once; the script may run twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLostError,)),
        driver_info=None,  # which would be read from the disk for each connection
        protocol=2,
        **secured,
    )
