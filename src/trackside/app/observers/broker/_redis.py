"""Publishes to streams of Redis or Valkey.

Redis itself recognises a repeated entry only from 8.6 on, by a number of ids that is soon used up, and Valkey does not.
So a script, which both run as one step, adds the entries: for each it looks for a key with the event's id, adds the
entry if there is none, and then sets the key, which expires by itself. Adding comes first: an entry that fails between
the two comes again, and is then there twice rather than not at all. The script stops at the first entry that its stream
does not take, so that no later one is there before it: a starting server may take nothing now and all a moment later.

Everything that waits goes to the server together, on one connection: all callers share the round trip.
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
from trackside.harness.foreign.failures import line_of

__all__ = ["RedisStreams"]

_ADD: Final = """
local function has_failed(reply)
    return type(reply) == 'table' and reply.err
end

local function add(key, first, last)
    local seen = redis.pcall('GET', key)
    if seen then return seen end
    local id
    if ARGV[2] == '' then
        id = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, first, last))
    else
        id = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, first, last))
    end
    if has_failed(id) then return id end
    return redis.pcall('SET', key, id, 'PX', ARGV[1])
end

local width = tonumber(ARGV[3])
for number = 2, #KEYS do
    local last = 3 + (number - 1) * width
    local reply = add(KEYS[number], last - width + 1, last)
    if has_failed(reply) then
        if number == 2 then return reply end
        return number - 2
    end
end
return #KEYS - 1
"""
"""Returns how many entries were added, from the first on; or why the first one was not."""
_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 4_194_304
_AGAIN: Final = Exception("behind one that was not taken")
_ARGUMENTS: Final = ", with args beginning with"
_CLOSE_SECONDS: Final = 2.0
_LIMIT: Final = 536_870_912
"""The largest value, in bytes, for a server that does not tell its limit: the usual limit."""


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
        """Have the messages added together with those of other callers, and wait for the server's answers."""
        group = _Group(len(messages))
        self._waiting.extend((group, message) for message in messages)
        if self._sender is None or self._sender.done():
            # Not in the context of the caller that happens to ask first: the task works for others, too (I21).
            self._sender = asyncio.create_task(self._send(), name="trackside-broker-redis", context=Context())
        try:
            async with asyncio.timeout(self._timeout):
                await group.done
        except TimeoutError:
            if group.is_settled:  # settled in the same turn of the loop in which the time ran out
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
        """Add waiting messages until none is left."""
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
            except Exception as exc:  # noqa: BLE001  # a failure of the server or its client: all who wait get it
                self._limit = None
                chunk += self._waiting
                self._waiting.clear()
                answers = [exc] * len(chunk)
            self._settle(chunk, answers)
            if any(isinstance(answer, ResponseError) for answer in answers):
                await self._leave()

    async def _leave(self) -> None:
        """Disconnect from a server that refuses something: it may be a replica now, which keeps its connections, while
        the address leads elsewhere. Every error counts, as those in a script have no known kind: up to 6.2, their text
        begins with their place.
        """
        self._limit = None
        with suppress(RedisError, OSError):
            await self._client.connection_pool.disconnect()

    def _settle(self, chunk: Sequence[tuple[_Group, Message]], answers: Sequence[Exception | None]) -> None:
        """Tell each group about its messages, in order: those after one to be sent again are sent again, too."""
        again: list[tuple[_Group, Message]] = []
        waiting: set[_Group] = set()
        for (group, message), answer in zip(chunk, answers, strict=True):
            if answer is _AGAIN or group in waiting:
                again.append((group, message))
                waiting.add(group)
            else:
                group.settle(None if answer is None else self._failure(message, answer))
        self._waiting.extendleft(reversed(again))

    def _next_chunk(self, limit: int) -> list[tuple[_Group, Message]]:
        """The next messages to send together; none of a group after one that is not taken."""
        chunk: list[tuple[_Group, Message]] = []
        size = 0
        while self._waiting and len(chunk) < _AT_ONCE and size < _BYTES_AT_ONCE:
            group, message = self._waiting[0]
            if not group.done.done():  # otherwise its caller has left, or an earlier message was not taken
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

    async def _add(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Add to each stream what it takes; returns for each message None, why it was not taken, or `_AGAIN`."""
        streams: dict[str, list[int]] = {}
        for place, message in enumerate(messages):
            streams.setdefault(message.topic, []).append(place)
        pipeline = self._client.pipeline(transaction=False)
        for topic, places in streams.items():
            # A cluster keeps the keys of one script on one server, going by the part in braces.
            seen = [f"{{{topic}}}:seen:{messages[place].event_id}" for place in places]
            entries = [_entry_of(messages[place]) for place in places]
            parts = [part for entry in entries for part in entry]
            pipeline.eval(_ADD, 1 + len(seen), topic, *seen, self._window, self._max_length, len(entries[0]), *parts)
        answers: list[Exception | None] = [None] * len(messages)
        said = await pipeline.execute(raise_on_error=False) if streams else []
        for places, added in zip(streams.values(), said, strict=True):
            failed = isinstance(added, Exception)
            for place in places if failed else places[added:]:
                answers[place] = added if failed else _AGAIN
        return answers

    async def _ask_limit(self) -> int:
        """How many bytes a value may have."""
        try:
            said = await self._client.config_get("proto-max-bulk-len")
            return int(said["proto-max-bulk-len"] or _LIMIT)
        except (ResponseError, KeyError, ValueError):  # this user may not be allowed to ask
            return _LIMIT

    def _failure(self, message: Message, exc: Exception) -> Exception:
        """What a failure of the server means for the message: it is never the message's own fault."""
        match exc:
            case AuthenticationError():
                return self._away(message.what, f"it does not let us in: {line_of(exc)}")
            case NoPermissionError():
                return self._away(message.what, f"it does not allow that: {line_of(exc)}")
            case ResponseError() if _ARGUMENTS in str(exc):  # then come the first arguments, such as a password
                return self._away(message.what, line_of(exc).partition(_ARGUMENTS)[0])
            case ResponseError():
                code = getattr(exc, "status_code", None)
                return self._away(message.what, f"{code}: {line_of(exc)}" if code else line_of(exc))
            case RedisError() | OSError():
                return self._away(message.what, line_of(exc))
            case _:
                return exc

    def _away(self, what: str, why: str) -> DeliveryError:
        return DeliveryError(receiver=self._shown, what=what, why=why, away=True)


def _entry_of(message: Message) -> list[str | bytes]:
    """The names and values of the fields of its entry: the same number for each message."""
    fields: dict[str, str | bytes] = {"event_id": message.event_id, **message.attributes, "event": message.body}
    return [part for field in fields.items() for part in field]


class _Group:
    """What one caller publishes in one call."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self.failure: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    @property
    def is_settled(self) -> bool:
        """Whether all its messages were taken, or one is known not to have been."""
        return self.failure is not None or not self._left

    def settle(self, failure: Exception | None) -> None:
        """Note that its next message was taken, or why it was not."""
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
        # A connection that was closed while idle is made anew at once; the script may run twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLostError,)),
        driver_info=None,  # it would be read from disk for each connection
        protocol=2,
        **secured,
    )
