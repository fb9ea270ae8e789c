"""The observer that publishes events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from trackside.app.broker_access import NATS_SCHEMES, Address, Login, addresses_in, tls_context
from trackside.app.delivery import LONGEST_TRY, Delivery, DeliveryError, ObserverOptionError, Order
from trackside.app.masking import without_secrets
from trackside.app.observers.broker._message import Broker, message_of
from trackside.app.observers.broker._options import topic_for, topic_template
from trackside.app.options import checked_number, checked_text
from trackside.harness.errors import ClosedError
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

__all__ = ["BrokerObserver"]

_YEAR = 31_536_000


class BrokerObserver:
    """Publishes each event to NATS JetStream, or to a stream of Redis or Valkey, and waits until the broker keeps it.

        BrokerObserver(url="nats://localhost:4222")
        BrokerObserver(url="redis://localhost:6379/0", topic="agents:{event_type}", max_length=100_000)

    A message is the event as JSON, the same bytes each time. The broker recognises it by its `event_id` and keeps a
    message that comes again only once. A failure is raised as `DeliveryError`, and the subscription tries again. A
    broker that is away costs no event anything; an event that is larger than the broker takes is parked.

    Args:
        url: `nats://`, `tls://` (NATS with TLS), `redis://`, `rediss://` (Redis with TLS) or `valkey://`, a host and,
            if it is not the usual one, a port. For NATS there may be several, separated by commas; for Redis, a
            database: `/0`.
        topic: the NATS subject, or the key of the Redis stream, for each type of event:
            `trackside.events.{event_type}`, or `trackside:{event_type}`, if left out.
        stream: for NATS, the name of the JetStream stream, `TRACKSIDE` if left out. A stream that exists is used as it
            is, and has to cover the subjects; else it is created, with its messages in files.
        max_length: about how many messages each Redis stream keeps; how many the JetStream stream keeps, if it is
            created here. All of them if left out.
        duplicate_window: within how many seconds a repeated message is recognised; for a JetStream stream, if it is
            created here.
        username: the name to log in with at the broker, with `password`. Both may be in the URL instead.
        password: its password; for Redis also without a username.
        token: for NATS, instead of these.
        credentials: for NATS, the path of a credentials file (`.creds`) instead of these; read at each connection.
        ca_file: certificates (PEM) of those who certify the broker, instead of those that this machine trusts.
        timeout: how many seconds the broker has to take what it is given, connecting included; at most 25, as the
            subscription gives up after 30.

    Raises:
        ObserverOptionError: one of these does not fit, or is for another broker; or the client of this one is missing.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.run
    concurrency: ClassVar[int] = 64

    def __init__(
        self,
        *,
        url: str,
        topic: str | None = None,
        stream: str | None = None,
        max_length: int | None = None,
        duplicate_window: float = 600,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | None = None,
        ca_file: str | None = None,
        timeout: float = 10,
    ) -> None:
        addresses, in_url = addresses_in(url)
        nats = addresses[0].scheme in NATS_SCHEMES
        given = {"username": username, "password": password, "token": token, "credentials": credentials}
        login = _login(in_url, {name: value for name, value in given.items() if value is not None}, nats=nats)
        template = topic_template(topic, nats=nats)
        checked: dict[str, Any] = {
            "login": login,
            "tls": tls_context(ca_file, secure=addresses[0].is_secure),
            "ca_file": ca_file,
            "timeout": checked_number("timeout", timeout, least=0.1, most=LONGEST_TRY),
            "duplicate_window": checked_number("duplicate_window", duplicate_window, least=1, most=_YEAR),
            "max_length": max_length
            if max_length is None
            else checked_number("max_length", max_length, least=1, most=10**12, whole=True),
        }
        self._topics = {kind: topic_for(template, kind.value) for kind in LifecycleEventType}
        self._login = login
        self._broker = self._nats(addresses, stream, checked) if nats else _redis(addresses[0], stream, checked)
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Publish one event.

        Raises:
            DeliveryError: the broker did not take it, or nobody knows whether it did.
            ClosedError: the observer is closed.
        """
        await self.on_events((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Publish these events, in this order. If the broker does not take one, those after it are not published, or
        they come again and are recognised.

        Raises:
            DeliveryError: the broker did not take the first one.
            PartlyTaken: it took some, and not the next one.
            ClosedError: the observer is closed.
        """
        if self._closed:
            raise ClosedError(what="broker observer")
        if not events:
            return
        messages = [message_of(event, self._topics[event.event_type]) for event in events]
        taken, failure = await self._broker.publish(messages)
        if failure is None:
            return
        failure = self._without_secrets(failure)
        raise PartlyTaken(taken, failure) if taken else failure

    async def aclose(self) -> None:
        """Disconnect from the broker. May be called again."""
        self._closed = True
        await self._broker.aclose()

    def _without_secrets(self, failure: Exception) -> Exception:
        """The failure as it may be shown: a broker may repeat the secrets that it was sent."""
        if not isinstance(failure, DeliveryError):
            return failure
        why = without_secrets(failure.details["why"], dict.fromkeys(self._login.secrets, "…"))
        said: dict[str, Any] = {**failure.details, "why": why}
        return DeliveryError(**said)

    def _nats(self, addresses: Sequence[Address], stream: str | None, checked: dict[str, Any]) -> Broker:
        name = "TRACKSIDE" if stream is None else checked_text("stream", stream)
        if any(char.isspace() or char in r".*>/\\" for char in name):
            raise ObserverOptionError(option="stream", why=r"a JetStream stream has no blanks and none of . * > / \ ")
        try:
            from trackside.app.observers.broker._nats import JetStream, StreamPlan
        except ModuleNotFoundError as missing:
            raise _missing(missing, "nats") from missing
        del checked["ca_file"]
        plan = StreamPlan(
            name=name,
            subjects=sorted(set(self._topics.values())),
            max_length=checked.pop("max_length"),
            duplicate_window=checked.pop("duplicate_window"),
        )
        return JetStream(addresses, plan, **checked)


def _redis(address: Address, stream: str | None, checked: dict[str, Any]) -> Broker:
    if stream is not None:
        raise ObserverOptionError(option="stream", why="it is for NATS; the key of a Redis stream is its `topic`")
    try:
        from trackside.app.observers.broker._redis import RedisStreams
    except ModuleNotFoundError as missing:
        raise _missing(missing, "redis") from missing
    del checked["tls"]
    return RedisStreams(address, **checked)


def _login(in_url: Login, given: dict[str, Any], *, nats: bool) -> Login:
    """The login at the broker, from the URL or from separate options, in one of the ways that the broker supports."""
    for option, value in given.items():
        checked_text(option, value)
        if in_url != Login():
            raise ObserverOptionError(option=option, why="there are credentials in the URL, too; give them once")
        if not nats and option in {"token", "credentials"}:
            raise ObserverOptionError(option=option, why="it is for NATS; Redis knows `username` and `password`")
    ways: list[str] = [way for way in ("token", "credentials") if way in given]
    if {"username", "password"} & given.keys():
        ways.append("username")
    if len(ways) > 1:
        raise ObserverOptionError(option=ways[0], why=f"there is `{ways[1]}`, too; take one of them")
    if "username" in given and "password" not in given:
        raise ObserverOptionError(option="password", why="it is missing beside `username`")
    if nats and "password" in given and "username" not in given:
        raise ObserverOptionError(option="username", why="it is missing beside `password`")
    return replace(in_url, **given)


def _missing(missing: ModuleNotFoundError, extra: str) -> ObserverOptionError:
    why = f"this broker needs the package {missing.name}: pip install 'trackside[{extra}]'"
    return ObserverOptionError(option="url", why=why)
