"""What processes of a fleet say to each other besides live output: ids, in JSON with a version. No secrets, and no input."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final

import msgspec

from trackside.app.engine.ports import EngineStats

__all__ = ["Ask", "Counts", "Here", "RunNotice", "encoded", "read"]

logger = logging.getLogger("trackside.engine")

_VERSION: Final = 1
_LONGEST: Final = 16_384  # bytes of a message; an id may be long

type Id = Annotated[str, msgspec.Meta(min_length=1, max_length=2_048)]


class RunNotice(msgspec.Struct, frozen=True):
    """A run that may be claimed, or one that shall stop."""

    run: Id
    v: int = _VERSION


class Here(msgspec.Struct, frozen=True):
    """A worker says that it is there."""

    worker: Id
    v: int = _VERSION


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker wants of a server: to announce a run to a pool, to make a pool's consumer, or to stop a worker's run."""

    run: Id | None = None
    pool: Id | None = None
    worker: Id | None = None
    v: Annotated[int, msgspec.Meta(ge=1)] = 1


class Counts:
    """What was done, counted."""

    def __init__(self) -> None:
        self.announced = 0
        self.announce_failures = 0
        self.offers = 0
        self.redelivered = 0
        self.stops_sent = 0
        self.stops_heard = 0
        self.said = 0
        self.heard = 0
        self.refused = 0
        self.unreadable = 0
        """Messages on subjects of the fleet that are none of its own."""

    def stats(self, reconnects: int) -> EngineStats:
        """All of the counts."""
        return EngineStats(
            announced_total=self.announced,
            announce_failures_total=self.announce_failures,
            offers_total=self.offers,
            redelivered_total=self.redelivered,
            stops_sent_total=self.stops_sent,
            stops_heard_total=self.stops_heard,
            messages_said_total=self.said,
            messages_heard_total=self.heard,
            messages_refused_total=self.refused,
            messages_unreadable_total=self.unreadable,
            reconnects_total=reconnects,
        )

    def note_unreadable(self, subject: str) -> None:
        """Note a message that is none that we know; said once."""
        if not self.unreadable:
            logger.warning("NATS: a message on %s is not from this fleet; it and others like it are ignored", subject)
        self.unreadable += 1


def encoded(message: msgspec.Struct) -> bytes:
    """A message on its way."""
    return _ENCODER.encode(message)


def read[T: msgspec.Struct](kind: type[T], payload: bytes) -> T | None:
    """A message that came; None: it is none that we know."""
    if len(payload) > _LONGEST:
        return None
    try:
        message: Any = _DECODERS[kind].decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return message if message.v == _VERSION else None


_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (RunNotice, Here, Ask)
}
