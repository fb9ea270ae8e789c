"""One connection to NATS, from its making to its loss.

The client could reconnect by itself. It does not do so here: while it tries, it would hold back what is sent, and send
it when nobody waits for it any more; and a server that says "not you" ends it for good. So a connection that is lost is
gone with all that was under way on it, and there will be another one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from trackside.app.engine.nats._errors import NotAllowedError
from trackside.app.engine.nats._identity import NO_TLS, login_options
from trackside.app.engine.nats._options import Access
from trackside.harness.foreign.failures import line_of

__all__ = ["Link", "Subscribed", "why_not"]

logger = logging.getLogger("trackside.engine")


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not what asyncio says at the end of each connection: that the client reads to the end also with TLS."""
    return "eof_received() has no effect" not in record.getMessage()


logging.getLogger("asyncio").addFilter(_is_worth_saying)

OLDEST: Final = (2, 11)
"""The first version of NATS that gives many kept messages at one request."""
CONNECT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 1.0
PING_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 4.0
"""How long a server may take to answer a ping before it is believed to be gone."""
_CLIENT_BYTES: Final = 256 * 1024  # more than this and the writer waits until the socket has taken it
_MOST_WAITING: Final = 32 * 2**20  # bytes; more is not taken, whatever it is
_INBOX_BYTES: Final = 64 * 2**20
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')

type Hear = Callable[[Msg], None]


class Subscribed:
    """A subscription of this connection."""

    __slots__ = ("inner", "wanted")

    def __init__(self) -> None:
        self.inner: Subscription | None = None
        self.wanted = True


class Link:
    """A connection. What is sent waits in it until the socket takes it; the sender does not wait."""

    def __init__(
        self, access: Access, *, name: str, on_slow: Callable[[str], None], on_denied: Callable[[str], None]
    ) -> None:
        self._access = access
        self._name = name
        self._on_slow = on_slow
        self._on_denied = on_denied
        self._client = Client()
        self._waiting: deque[tuple[int, Callable[[], Coroutine[Any, Any, Any]]]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._numbers = count(1)
        self._answers: dict[str, Hear] = {}
        self._denials: dict[str, list[Callable[[], None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._drained: list[tuple[int, Callable[[], None]]] = []
        self.user = access.identity.user
        self.inbox = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it is lost, as soon as it is."""
        self.said: str | None = None
        """What the server complained of last."""

    @property
    def is_up(self) -> bool:
        """Whether anything can be sent."""
        return self._client.is_connected and not self.lost.done()

    @property
    def waiting_bytes(self) -> int:
        """How much waits to be sent."""
        return self._waiting_bytes + self._client.pending_data_size

    @property
    def largest(self) -> int:
        """How many bytes a message may have."""
        return self._client.max_payload

    async def connect(self) -> None:
        """Connect.

        Raises:
            nats.errors.Error: the server does not let us in, or is not one of NATS.
            OSError: it cannot be reached.
        """
        access = self._access
        async with asyncio.timeout(CONNECT_SECONDS * max(len(access.servers), 1)):
            await self._client.connect(
                access.servers,
                name=self._name,
                allow_reconnect=False,
                # One more try for each server: else the client would go on for ever with one that refuses connections.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_SECONDS,  # type: ignore[arg-type]  # any number will do
                ping_interval=3_600,  # we have our own, which also sees when nothing is taken any more
                pending_size=_CLIENT_BYTES,
                inbox_prefix=f"_INBOX.{self.user}",
                error_cb=self._note,
                closed_cb=self._note_closed,
                tls=access.tls,
                **login_options(access.identity, self._client, self._is_safe),
            )
            if not self._is_safe():
                raise ConnectionError(NO_TLS)
            self._check_version()
            self.inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self.inbox}.*", cb=self._take_answer, pending_bytes_limit=_INBOX_BYTES)
        self._tasks = [
            asyncio.create_task(self._write(), name="trackside-nats-writer"),
            asyncio.create_task(self._watch(), name="trackside-nats-watch"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._note_ended)

    def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> bool:
        """Have a message sent; False if there is no room for it, or nowhere to send it to."""
        size = len(subject) + len(payload) + 64
        if not self.is_up or self._waiting_bytes + size > _MOST_WAITING:
            return False
        said = None if headers is None else dict(headers)
        self._soon(lambda: self._client.publish(subject, payload, reply, said), size)
        return True

    def subscribe(self, subject: str, hear: Hear, *, queue: str = "", most_bytes: int = 8 * 2**20) -> Subscribed:
        """Hear what comes on a subject; what comes faster than it is heard is lost beyond so many bytes."""
        subscribed = Subscribed()

        async def take(message: Msg) -> None:
            if subscribed.wanted:
                hear(message)

        async def begin() -> None:
            if subscribed.wanted:
                subscribed.inner = await self._client.subscribe(
                    subject, queue=queue, cb=take, pending_bytes_limit=most_bytes
                )

        self._soon(begin, len(subject))
        return subscribed

    def unsubscribe(self, subscribed: Subscribed) -> None:
        """Hear no more on it."""
        subscribed.wanted = False

        async def end() -> None:
            if subscribed.inner is not None:
                await subscribed.inner.unsubscribe()

        self._soon(end, 16)

    async def drain(self, subscribed: Subscribed) -> None:
        """Hear what is already on its way, and then no more."""
        inner = subscribed.inner
        if self.is_up and inner is not None:
            try:
                async with asyncio.timeout(2 * SILENT_SECONDS):
                    # Not the client's own `drain`: its ping overtakes what it has just sent.
                    await self._client._send_unsubscribe(inner._id)  # noqa: SLF001
                    await self._round_trip(SILENT_SECONDS)
                    await inner._pending_queue.join()  # noqa: SLF001
            except (nats.errors.Error, OSError) as exc:  # a TimeoutError is an OSError
                self.lose(self._why(exc))
        self.unsubscribe(subscribed)

    def expect(self, hear: Hear) -> tuple[str, str]:
        """A subject for answers, and the token by which `forget` knows it; each answer goes to `hear`."""
        token = str(next(self._numbers))
        self._answers[token] = hear
        return token, f"{self.inbox}.{token}"

    def inbox_within(self) -> str:
        """A subject below which only our own answers come."""
        return f"{self.inbox}.{next(self._numbers)}"

    def forget(self, token: str) -> None:
        """Expect no more answers there."""
        self._answers.pop(token, None)

    def on_denied(self, subject: str, call: Callable[[], None]) -> Callable[[], None]:
        """Have something called if the server does not let us use a subject; returns the function that ends this."""
        calls = self._denials.setdefault(subject.lower(), [])
        calls.append(call)

        def end() -> None:
            with suppress(ValueError):
                calls.remove(call)
            if not calls and self._denials.get(subject.lower()) is calls:
                del self._denials[subject.lower()]

        return end

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float = 5.0) -> Msg:
        """Ask, and wait for the answer.

        Raises:
            NotAllowedError: the server does not let us ask that.
            TimeoutError: nobody has answered.
            ConnectionError: the connection is lost.
        """
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def deny() -> None:
            if not answer.done():
                answer.set_exception(NotAllowedError(subject=subject))

        token, reply = self.expect(lambda message: None if answer.done() else answer.set_result(message))
        end = self.on_denied(subject, deny)
        try:
            if not self.publish(subject, payload, reply=reply):
                raise ConnectionError("not connected")
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            end()
            self.forget(token)
            answer.cancel()

    def when_drained(self, below: int, call: Callable[[], None]) -> None:
        """Have something called once, when fewer than so many bytes wait."""
        self._drained.append((below, call))
        self._wake.set()

    async def flushed(self, timeout: float) -> None:
        """Wait until all that waits is sent, and the server has taken it.

        Raises:
            TimeoutError: it has not in time.
            ConnectionError: the connection is lost.
        """
        done = asyncio.get_running_loop().create_future()

        async def end() -> None:
            try:
                await self._round_trip(timeout)
            except TimeoutError:
                self.lose(f"it did not answer for {timeout:g} s")
            if not done.done():
                done.set_result(None)

        self._soon(end, 0)
        async with asyncio.timeout(timeout):
            await asyncio.wait([done, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            done.cancel()
            raise ConnectionError(self.lost.result())

    async def _round_trip(self, timeout: float) -> None:
        """Wait until the server has taken what is sent: twice, as one ping overtakes what the client still holds."""
        for _ in range(2):
            await self._client.flush(timeout)  # type: ignore[arg-type]  # any number will do

    def _note_ended(self, task: asyncio.Task[None]) -> None:
        """Lose the connection: without one of its tasks it would seem to be up for ever, and send nothing."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("the connection to NATS failed; there will be another one", exc_info=exc)
            self.lose(self._why(exc))

    def lose(self, why: str) -> None:
        """Note that it is lost."""
        if not self.lost.done():
            self.lost.set_result(why)
        self._wake.set()

    async def aclose(self) -> None:
        """Close it, in bounded time."""
        self.lose("closed")
        for task in self._tasks:
            task.cancel()
        transport = self._client._transport  # noqa: SLF001  # which a server that takes nothing never lets go of
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            with suppress(TimeoutError, nats.errors.Error, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._client.close()
        finally:  # also if the task that closes it is cancelled meanwhile
            writer = getattr(transport, "_io_writer", None)
            if writer is not None:
                writer.transport.abort()

    def _soon(self, work: Callable[[], Coroutine[Any, Any, Any]], size: int) -> None:
        self._waiting.append((size, work))
        self._waiting_bytes += size
        self._wake.set()

    async def _write(self) -> None:
        while not self.lost.done():
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and not self.lost.done():
                size, work = self._waiting.popleft()
                self._waiting_bytes -= size
                try:
                    await work()
                except (nats.errors.Error, OSError) as exc:
                    if self._client.is_closed:
                        self.lose(self._why(exc))
                    else:  # it concerns this message alone
                        self.said = line_of(exc)
                self._tell_drained()
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self._drained:
            waiting = self.waiting_bytes
            due = [call for below, call in self._drained if waiting < below]
            if due:
                self._drained = [each for each in self._drained if waiting >= each[0]]
                for call in due:
                    call()

    async def _watch(self) -> None:
        """Check that the server answers: the client's own pings wait behind what the server takes no more."""
        while not self.lost.done():
            await asyncio.wait([self.lost], timeout=PING_SECONDS)
            if self.lost.done():
                return
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    await self._client.flush(SILENT_SECONDS)  # type: ignore[arg-type]  # any number will do
            except TimeoutError:
                self.lose(f"it did not answer for {SILENT_SECONDS:g} s")
            except (nats.errors.Error, OSError) as exc:
                self.lose(self._why(exc))

    async def _take_answer(self, message: Msg) -> None:
        hear = self._answers.get(message.subject.rpartition(".")[2])
        if hear is not None:
            hear(message)

    async def _note(self, exc: Exception) -> None:
        if isinstance(exc, nats.errors.SlowConsumerError):
            self._on_slow(exc.subject)
            return
        if not isinstance(exc, nats.errors.Error | OSError | TimeoutError):  # of our own code, which heard something
            logger.error("could not deal with a message from NATS", exc_info=exc)
            return
        text = line_of(exc).removeprefix("nats: ").strip("'")
        self.said = text
        violation = _VIOLATION.search(text)
        if violation is None:
            return
        calls = [*self._denials.get(violation[2], ())]
        for call in calls:
            call()
        if not calls:
            self._on_denied(text)

    async def _note_closed(self) -> None:
        last = self._client.last_error
        self.lose(self._why(last) if last is not None else "the server ended the connection")

    def _check_version(self) -> None:
        try:
            version = self._client.connected_server_version
            found = (version.major, version.minor)
        except ValueError:  # a build of somebody's own
            return
        if found < OLDEST:
            raise ConnectionError(
                f"it is NATS {found[0]}.{found[1]}, and a fleet needs {OLDEST[0]}.{OLDEST[1]} or later"
            )

    def _is_safe(self) -> bool:
        return self._access.tls is None or self._access.tls.handshakes > 0

    def _why(self, exc: BaseException) -> str:
        return why_not(exc, self.said)


def why_not(exc: BaseException, said: str | None = None) -> str:
    """Why there is no connection, in words."""
    text = line_of(exc).removeprefix("nats: ").strip("'")
    whole = f"{text} {said or ''}".lower()
    match exc:
        case _ if "authorization violation" in whole or "authentication" in whole:
            return "it does not let us in: wrong or missing credentials"
        case _ if "certificate_verify_failed" in whole or "certificate verify failed" in whole:
            return f"its certificate is trusted neither by engine.ca nor by this machine: {said or text}"
        case nats.errors.NoServersError() if said:
            return said
        case TimeoutError():
            return "it did not answer in time"
        case nats.errors.UnexpectedEOF():
            return "the server ended the connection"
        case _:
            return text
