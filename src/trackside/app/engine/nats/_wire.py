"""Carries live output: published once, heard at once by those who listen, and kept for a while for late followers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg

from trackside.app.engine.nats._connection import Connection
from trackside.app.engine.nats._errors import JetStreamError, NotAllowedError
from trackside.app.engine.nats._jetstream import JetStream, status_of
from trackside.app.engine.nats._link import Link, Subscribed
from trackside.app.engine.nats._messages import Counts
from trackside.app.engine.nats._names import Names
from trackside.app.streams.wire import Topic
from trackside.harness.foreign.failures import line_of

__all__ = ["NatsWire"]

logger = logging.getLogger("trackside.engine")

_HIGH: Final = 4 * 2**20
"""Bytes that may wait to be sent before the next message is refused."""
_LOW: Final = 2**20
_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 2 * 2**20
_REPLAYS_AT_ONCE: Final = 16
_REPLAY_SECONDS: Final = 5.0
_MOST_BUFFERED: Final = 8 * 2**20
_RETRY_SECONDS: Final = 1.0
_LIVE: Final = "live output"


class NatsWire:
    """A `LiveWire`, and a `Part`.

    A message may have as many bytes as NATS takes in one, which is 1 MiB unless its configuration says otherwise. One that
    is larger is never sent: it is counted as refused, and said once.
    """

    def __init__(
        self, connection: Connection, jetstream: JetStream, names: Names, counts: Counts, *, lead: bool
    ) -> None:
        self.on_writable: list[Callable[[], object]] = []
        self._connection = connection
        self._jetstream = jetstream
        self._names = names
        self._counts = counts
        self._leads = lead
        self._listenings: set[_NatsListening] = set()
        self._refused = False
        self._too_large = False
        self._speaks = False
        """Whether it was seen on this connection that what is said is kept: those who listen may come a moment later."""
        self._replays = asyncio.Semaphore(_REPLAYS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, topic: Topic, message: bytes) -> bool:
        """Send a message about one run."""
        link = self._connection.link if self._speaks else None
        if link is not None and len(message) > link.largest:
            self._counts.refused += 1
            if not self._too_large:
                self._too_large = True
                logger.error(
                    "a message of %d bytes is larger than NATS takes (%d); it is lost", len(message), link.largest
                )
            return True  # sending it again would not help
        if link is None or link.waiting_bytes > _HIGH or not link.publish(self._names.live(topic), message):
            self._counts.refused += 1
            if not self._refused and link is not None:
                link.when_drained(_LOW, self._tell_writable)
            self._refused = True
            return False
        self._counts.said += 1
        return True

    def listen(self, topic: Topic, hear: Callable[[bytes], object]) -> _NatsListening:
        """Hear what was said on a topic and is kept, then what is said."""
        listening = _NatsListening(self._names.live(topic), hear, self)
        self._listenings.add(listening)
        if self._connection.link is not None:
            self._begin(listening, self._connection.link)
        return listening

    async def attend(self, link: Link) -> None:
        """Make sure that what is said is kept, and have everybody hear it."""
        for listening in [*self._listenings]:
            self._begin(listening, link)
        try:
            is_kept = await self._see_to_stream(link)
            self._speaks = True  # if it is not kept, those who listen by now hear it all the same
            self._tell_writable()
            while not is_kept:
                await asyncio.sleep(_RETRY_SECONDS)
                is_kept = await self._see_to_stream(link)
            await asyncio.wait([link.lost])
        finally:
            self._speaks = False
            for listening in self._listenings:
                listening.pause()
            self._refused = False  # nobody tells of a connection that is gone; the next one does
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def forget(self, listening: _NatsListening) -> None:
        """Forget a listener, which hears no more."""
        self._listenings.discard(listening)
        if listening.subscribed is not None and listening.link is not None:
            listening.link.unsubscribe(listening.subscribed)

    def count_heard(self) -> None:
        """Count a message that was heard."""
        self._counts.heard += 1

    async def _see_to_stream(self, link: Link) -> bool:
        try:
            await self._jetstream.see_to_live(link)
        except NotAllowedError as exc:
            if not self._leads:
                return True
            self._connection.note(_LIVE, f"it is not kept for late followers: {exc}")
        except (JetStreamError, TimeoutError) as exc:
            self._connection.note(_LIVE, f"it is not kept for late followers: {line_of(exc)}")
        else:
            self._connection.note(_LIVE, None)
            return True
        return False

    def _tell_writable(self) -> None:
        self._refused = False
        for call in [*self.on_writable]:
            call()

    def _begin(self, listening: _NatsListening, link: Link) -> None:
        if listening.link is link:  # it came after the connection, and before it was attended to
            return
        listening.pause()
        listening.link = link
        listening.subscribed = link.subscribe(listening.subject, listening.take_live)
        task = asyncio.create_task(self._replay(listening, link), name="trackside-nats-replay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replay(self, listening: _NatsListening, link: Link) -> None:
        """Have a listener hear what is kept, then what has come meanwhile."""
        try:
            async with self._replays:
                following, empty = 1, 0
                # The last look comes after one that found nothing: what was said just before we listened may be kept late.
                while empty < 2 and not listening.closed:
                    try:
                        following, more = await self._replay_some(listening, link, following)
                    except TimeoutError:  # a stream without a leader, or one that is being made
                        await asyncio.sleep(_RETRY_SECONDS)
                        continue
                    empty = 0 if more or listening.lost_some else empty + 1
                    listening.lost_some = False
        except ConnectionError:  # once more on the next one
            return
        except NotAllowedError as exc:
            self._connection.note(_LIVE, f"what was said before cannot be read: {exc}")
        listening.go_on()

    async def _replay_some(self, listening: _NatsListening, link: Link, first: int) -> tuple[int, bool]:
        """Replay a batch of what is kept; returns the first number after it, and whether there may be more."""
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        following = first

        def take(message: Msg) -> None:
            nonlocal following
            status = status_of(message)
            headers = message.headers or {}
            if status is not None and "Nats-Sequence" not in headers:
                if not ended.done():
                    ended.set_result(status == 204 and headers.get("Nats-Num-Pending", "0") != "0")
                return
            following = int(headers["Nats-Sequence"]) + 1
            listening.hear(message.data)

        token, reply = link.expect(take)
        asked = {"seq": first, "batch": _AT_ONCE, "max_bytes": _BYTES_AT_ONCE, "next_by_subj": listening.subject}
        subject = f"$JS.API.DIRECT.GET.{self._names.live_stream}"

        def deny() -> None:
            if not ended.done():
                ended.set_exception(NotAllowedError(subject=subject))

        end = link.on_denied(subject, deny)
        try:
            if not link.publish(subject, json.dumps(asked).encode(), reply=reply):
                raise ConnectionError("not connected")
            async with asyncio.timeout(_REPLAY_SECONDS):
                more = await ended
            return following, more
        finally:
            end()
            link.forget(token)
            ended.cancel()


class _NatsListening:
    """A listener that hears a topic."""

    def __init__(self, subject: str, hear: Callable[[bytes], object], wire: NatsWire) -> None:
        self.subject = subject
        self.caught_up = asyncio.Event()
        self.link: Link | None = None
        """The connection on which it hears."""
        self.subscribed: Subscribed | None = None
        self.closed = False
        self.lost_some = False
        self._hear = hear
        self._wire = wire
        self._buffer: list[bytes] | None = []
        """What came live while what is kept is heard."""
        self._buffered = 0

    def close(self) -> None:
        """Hear no more."""
        if not self.closed:
            self.closed = True
            self._buffer = None
            self._wire.forget(self)

    def pause(self) -> None:
        """Note that the connection is lost: on the next one, what is kept comes first, again."""
        self.link = self.subscribed = None
        self._buffer, self._buffered = [], 0

    def take_live(self, message: Msg) -> None:
        """Take a message that comes as it is said."""
        if self._buffer is None:
            self.hear(message.data)
            return
        self._buffered += len(message.data)
        self._buffer.append(message.data)
        if self._buffered > _MOST_BUFFERED:  # all of it is kept, too
            self._buffer.clear()
            self._buffered = 0
            self.lost_some = True

    def go_on(self) -> None:
        """All that is kept was heard: pass on what came meanwhile, and then everything as it comes."""
        buffer, self._buffer = self._buffer or [], None
        self._buffered = 0
        for message in buffer:
            self.hear(message)
        self.caught_up.set()

    def hear(self, message: bytes) -> None:
        """Have the listener hear a message."""
        if self.closed:
            return
        self._wire.count_heard()
        try:
            self._hear(message)
        except Exception:  # a listener's failure, which the others must not feel
            logger.exception("a listener could not take a message of live output")
