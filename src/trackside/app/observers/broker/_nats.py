"""Publishes to a JetStream stream.

The NATS client could reconnect by itself. It does not do so here: while it tries, it would hold back what is published,
and send it when nobody waits for it any more. So a connection that is lost is gone, what was under way on it fails at
once, and the next message makes another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from trackside.app.broker_access import Address, Login, WatchedTls
from trackside.app.delivery import DeliveryError, ObserverOptionError
from trackside.app.observers.broker._message import Message, Outcome, too_large
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.failures import line_of
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.threads import in_own_thread

__all__ = ["JetStream", "StreamPlan"]

_BEGUN_WITHIN: Final = 0.5
"""In which part of the time for several messages each of them but the first has to be sent."""
_CLOSE_SECONDS: Final = 2.0
_NAME_IN_USE: Final = 10_058  # JetStream's `err_code`s
_TOO_LARGE_FOR_STREAM: Final = 10_054
_HEADER_BYTES: Final = 16  # overhead of the block of headers, besides its lines


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """The stream that must exist; the last two fields are for a stream that must be created."""

    name: str
    subjects: Sequence[str]
    max_length: int | None
    duplicate_window: float


class JetStream:
    """A `Broker`: a NATS server, or a cluster of them, with JetStream."""

    def __init__(
        self,
        addresses: Sequence[Address],
        plan: StreamPlan,
        *,
        login: Login,
        tls: WatchedTls | None,
        timeout: float,
    ) -> None:
        if login.credentials is not None:
            _check_nkeys()
        self._shown = ",".join(map(str, addresses))
        self._servers = [str(address) for address in addresses]
        self._plan = plan
        self._login = login
        self._tls = tls
        self._timeout = timeout
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link | str] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def publish(self, messages: Sequence[Message]) -> Outcome:
        """Send each message once the stream has taken the one before it.

        That keeps the order even if the stream refuses a message and would take the next one, as a stream does that is
        full, or is being made. We cannot use the header by which a stream would enforce the order itself
        (`Nats-Expected-Last-Msg-Id`): a stream with replicas that must refuse a message because of it stops for good,
        for everybody.

        Where that takes long, as on a slow link, the rest is left for the next call. So each message has some of the time
        for itself, and a connection that is only slow does not look dead.
        """
        link: _Link | None = None
        taken = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + _BEGUN_WITHIN * self._timeout
        try:
            async with asyncio.timeout(self._timeout):
                link = await self._linked(messages[0])
                for message in messages:
                    if taken and loop.time() >= until:
                        return taken, self._later(message)
                    await link.publish(message)
                    taken += 1
        except TimeoutError:
            if link is not None:  # the connection may be dead although nothing has reported it
                self._leave(link)
            why = f"it did not answer within {self._timeout:g} s{_said(link)}"
            return taken, self._away(messages[taken].what, why)
        except DeliveryError as exc:
            if link is not None and link.lacks_stream:  # the next connection looks for the stream
                self._leave(link)
            return taken, exc
        return taken, None

    async def aclose(self) -> None:
        """Close the connection."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if self._link is not None:
            self._leave(self._link)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _linked(self, message: Message) -> _Link:
        """The connection; made if there is none, once for all callers whose messages wait for it.

        Raises:
            DeliveryError: no connection could be made.
        """
        if self._link is not None:
            if self._link.is_up:
                return self._link
            self._leave(self._link)  # it is closing, but has not reported that yet
        if self._connecting is None:
            # Not in the context of the caller that happens to ask first: the task works for others, too (I21).
            self._connecting = asyncio.create_task(
                self._connect(), name="trackside-broker-connecting", context=Context()
            )
        connecting = self._connecting
        try:
            link = await outlived(connecting)
        except asyncio.CancelledError:
            if connecting.cancelled():  # by `aclose`
                raise ClosedError(what="broker observer") from None
            raise
        if isinstance(link, str):
            raise self._away(message.what, link)
        return link

    async def _connect(self) -> _Link | str:
        """A connection, or the reason why there is none."""
        link = _Link(self._shown, self._plan, on_lost=self._forget)
        try:
            async with asyncio.timeout(self._timeout):
                await link.connect(self._servers, self._login, self._tls, self._timeout)
        except (nats.errors.Error, OSError, ValueError) as exc:  # a TimeoutError is an OSError
            self._leave(link)
            return _why_not(exc, link)
        except BaseException:
            self._leave(link)
            raise
        else:
            self._link = link
            return link
        finally:
            self._connecting = None

    def _forget(self, link: _Link) -> None:
        if self._link is link:
            self._link = None

    def _leave(self, link: _Link) -> None:
        self._forget(link)
        closing = asyncio.create_task(link.aclose(), name="trackside-broker-closing", context=Context())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _away(self, what: str, why: str) -> DeliveryError:
        return DeliveryError(receiver=self._shown, what=what, why=why, away=True)

    def _later(self, message: Message) -> DeliveryError:
        why = "those before it have taken most of the time that there is for all of them; it comes next"
        return DeliveryError(receiver=self._shown, what=message.what, why=why, held_back=True)


class _Link:
    """One connection, from its start to its loss."""

    def __init__(self, shown: str, plan: StreamPlan, *, on_lost: Callable[[_Link], None]) -> None:
        self._shown = shown
        self._plan = plan
        self._on_lost = on_lost
        self._client = Client()
        self._inbox = ""
        self._acks: dict[str, asyncio.Future[None]] = {}
        """The futures of messages under way, by the last word of the subject on which the stream answers."""
        self._numbers = count(1)
        self._patience = asyncio.timeout(None)
        self._has_begun = False
        self.lacks_stream = False
        self.said: Exception | None = None
        """The last complaint of the client or the server, besides what is raised."""

    @property
    def is_up(self) -> bool:
        """Whether anything can be sent."""
        return self._client.is_connected

    async def connect(self, servers: list[str], login: Login, tls: WatchedTls | None, timeout: float) -> None:
        """Connect, and make sure that the stream exists.

        Raises:
            nats.errors.Error: the server does not let us in, or the stream is not as it must be.
            OSError: the server cannot be reached.
        """
        handshakes = 0 if tls is None else tls.handshakes

        def is_safe() -> bool:
            return tls is None or tls.handshakes > handshakes

        credentials = await _login_options(login, is_safe)
        self._has_begun = True
        await self._client.connect(
            servers,
            name="trackside",
            allow_reconnect=False,
            # One more try for each server: otherwise the client would go on for ever with one that refuses connections.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=timeout,  # type: ignore[arg-type]  # any number will do
            error_cb=self._note,
            closed_cb=self._lose,
            tls=tls,
            **credentials,
        )
        if not is_safe():
            raise nats.errors.Error("the server offers no TLS; nats:// is for servers without")
        async with self._patience:
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._take_answer)
            await self._see_to_stream(self._client.jetstream(timeout=timeout))

    async def publish(self, message: Message) -> None:
        """Publish a message, and wait for the stream's answer.

        Raises:
            DeliveryError: the message was not sent, or the stream did not take it.
        """
        ack = await self._send(message)
        try:
            await ack
        except nats.errors.Error as exc:
            raise self._refused(message, exc) from exc

    async def aclose(self) -> None:
        """Close the connection, in bounded time."""
        if self._has_begun:  # otherwise the client has nothing to close, and fails
            with suppress(TimeoutError, nats.errors.Error, OSError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.close()
        await self._lose()

    async def _send(self, message: Message) -> asyncio.Future[None]:
        headers = {"Nats-Msg-Id": message.event_id, "Nats-Expected-Stream": self._plan.name}
        for name, value in message.attributes.items():
            headers[f"Trackside-{name.replace('_', '-').title()}"] = value
        # The client counts only the body, and the server ends the connection of a client that sends too much.
        size = _HEADER_BYTES + sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
        size += len(message.body)
        if size > self._client.max_payload:
            raise too_large(message, receiver=self._shown, size=size, limit=self._client.max_payload)
        # The client has a call for this, but it never reports that the stream refused a message.
        number = str(next(self._numbers))
        ack = self._acks[number] = asyncio.get_running_loop().create_future()
        ack.add_done_callback(lambda _: self._acks.pop(number))
        try:
            await self._client.publish(message.topic, message.body, reply=f"{self._inbox}.{number}", headers=headers)
        except (nats.errors.Error, OSError) as exc:
            ack.cancel()
            raise self._refused(message, exc) from exc
        except BaseException:
            ack.cancel()
            raise
        return ack

    async def _take_answer(self, answer: Msg) -> None:
        ack = self._acks.get(answer.subject.rpartition(".")[2])
        if ack is None or ack.done():  # its caller has left
            return
        if (answer.headers or {}).get("Status") == "503":
            ack.set_exception(NoStreamResponseError())
        elif (error := msgspec.json.decode(answer.data).get("error")) is not None:
            ack.set_exception(APIError(error.get("code"), error.get("description"), error.get("err_code")))
        else:
            ack.set_result(None)

    def _refused(self, message: Message, exc: BaseException) -> DeliveryError:
        """Why the stream did not take a message. Nearly always the stream is the cause, so others would fail, too."""
        if isinstance(exc, APIError) and exc.err_code == _TOO_LARGE_FOR_STREAM:
            why = f"it has {len(message.body):,} bytes, and stream {self._plan.name} takes less: {exc.description}"
            return DeliveryError(receiver=self._shown, what=message.what, why=why, retryable=False)
        if isinstance(exc, NoStreamResponseError):
            self.lacks_stream = True
        return self._away(message.what, _why_not(exc, self))

    async def _see_to_stream(self, stream: JetStreamContext) -> None:
        plan = self._plan
        try:
            info = await stream.stream_info(plan.name)
        except NotFoundError:
            config = StreamConfig(
                name=plan.name,
                description="Lifecycle events of agent runs",
                subjects=[*plan.subjects],
                max_msgs=plan.max_length,
                storage=StorageType.FILE,
                duplicate_window=plan.duplicate_window,
            )
            try:
                info = await stream.add_stream(config)
            except BadRequestError as exc:
                if exc.err_code != _NAME_IN_USE:  # which means that somebody else has just made it
                    raise
                info = await stream.stream_info(plan.name)
        covered = info.config.subjects or []
        missing = [subject for subject in plan.subjects if not any(_covers(each, subject) for each in covered)]
        if missing:
            raise nats.errors.Error(
                f"stream {plan.name} does not have the subjects {', '.join(missing)}; add them, or take another stream"
            )

    async def _note(self, exc: Exception) -> None:
        self.said = exc

    async def _lose(self) -> None:
        self._on_lost(self)
        with suppress(RuntimeError):  # nothing is waiting for the stream
            self._patience.reschedule(0)
        for ack in [*self._acks.values()]:
            if not ack.done():
                ack.set_exception(nats.errors.ConnectionClosedError())

    def _away(self, what: str, why: str) -> DeliveryError:
        return DeliveryError(receiver=self._shown, what=what, why=why, away=True)


async def _login_options(login: Login, is_safe: Callable[[], bool]) -> dict[str, Any]:
    """Credentials as the client takes them; they are not sent before the connection is safe."""

    def once_safe(secret: str) -> Callable[[], str]:
        def say() -> str:
            if not is_safe():
                raise nats.errors.Error("the server offers no TLS; nats:// is for servers without")
            return secret

        return say

    options: dict[str, Any] = {}
    if login.username is not None and login.password is not None:
        options |= {"user": once_safe(login.username), "password": once_safe(login.password)}
    if login.token is not None:
        options["token"] = once_safe(login.token)
    if login.credentials is not None:
        options["user_credentials"] = RawCredentials(await in_own_thread(Path(login.credentials).read_text))
    return options


def _check_nkeys() -> None:
    if find_spec("nkeys") is None:
        why = "they need the package nkeys: pip install 'nats-py[nkeys]'"
        raise ObserverOptionError(option="credentials", why=why)


def _covers(pattern: str, subject: str) -> bool:
    """Whether a subject with wildcards covers one without."""
    parts, tokens = pattern.split("."), subject.split(".")
    if parts[-1] == ">" and len(tokens) >= len(parts):
        parts, tokens = parts[:-1], tokens[: len(parts) - 1]
    return len(parts) == len(tokens) and all(part in ("*", token) for part, token in zip(parts, tokens, strict=True))


def _why_not(exc: BaseException, link: _Link) -> str:
    match exc:
        case nats.errors.NoServersError() if link.said is not None:
            return _why_not(link.said, link) if link.said is not exc else line_of(exc)
        case NoStreamResponseError():
            return "no stream answers: it is gone, has no leader now, or JetStream is off"
        case ServiceUnavailableError():
            return f"JetStream is not there: {exc.description or 'the server has it off, or is not ready'}"
        case APIError():
            return f"{exc.description} (JetStream error {exc.err_code})"
        case nats.errors.AuthorizationError():
            return "it does not let us in: authorization violation"
        case TimeoutError():
            return "it did not answer in time"
        case _:
            pass
    text = line_of(exc).removeprefix("nats: ").strip("'")
    if "authorization violation" in text.lower() or "authentication" in text.lower():
        return f"it does not let us in: {text}"
    return f"{text}{_said(link) if link.said is not exc else ''}"


def _said(link: _Link | None) -> str:
    return "" if link is None or link.said is None else f"; it said: {line_of(link.said).removeprefix('nats: ')}"
