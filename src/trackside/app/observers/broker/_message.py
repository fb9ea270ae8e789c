"""What is published for an event, and what a broker has to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trackside.app.delivery import DeliveryError
from trackside.app.event_json import data_of, encode
from trackside.harness.observer import RunLifecycleEvent

__all__ = ["Broker", "Message", "message_of", "too_large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event on its way."""

    topic: str
    """The NATS subject, or the key of the Redis stream."""
    event_id: str
    """The id by which the broker recognises a message that comes again."""
    body: bytes
    attributes: Mapping[str, str]
    """What a consumer may filter by without reading the body."""

    @property
    def what(self) -> str:
        """The event, in words."""
        said = self.attributes
        return f"{said['event_type']} {said['sequence']} of run {said['run_id']}"


type Outcome = tuple[int, Exception | None]
"""How many messages a broker took from the front, and why it did not take the next one."""


class Broker(Protocol):
    """A connection to a broker that is made when it is needed, and made again after it was lost."""

    async def publish(self, messages: Sequence[Message]) -> Outcome:
        """Publish in this order, and return when the broker has said that it keeps them, or in bounded time."""
        ...

    async def aclose(self) -> None:
        """Give the connection back; what is under way fails. Takes bounded time, and may be called again."""
        ...


def message_of(event: RunLifecycleEvent, topic: str) -> Message:
    """The message that carries this event."""
    kind = event.event_type.value
    attributes = {
        "event_type": kind,
        "run_id": event.run_id,
        "thread_id": event.thread_id,
        "sequence": str(event.sequence),
    }
    return Message(topic=topic, event_id=event.event_id, body=encode(data_of(event)), attributes=attributes)


def too_large(message: Message, *, receiver: str, size: int, limit: int) -> DeliveryError:
    """The failure of a message that the broker will never take; sizes are bytes."""
    why = f"it has {size:,} bytes, and the broker takes at most {limit:,}"
    return DeliveryError(receiver=receiver, what=message.what, why=why, retryable=False)
