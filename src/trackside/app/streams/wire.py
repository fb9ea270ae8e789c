"""How what runs say gets from the process that executes them to those that are asked for it: what engines provide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Topic(NamedTuple):
    """What is said about: one run, or (without `run_id`) all runs of a thread."""

    thread_id: str
    run_id: str | None = None


class Listening(Protocol):
    """Somebody hears what is said on a topic, until this is closed."""

    @property
    def caught_up(self) -> asyncio.Event:
        """Set when all that was kept when this began has been heard."""
        ...

    def close(self) -> None:
        """Hear no more. May be called again."""
        ...


class LiveWire(Protocol):
    """Carries messages of runs between processes: bounded, kept for a short while, never durable.

    What the messages are is the business of `relay`, which numbers what is in them. All is called on one event loop.
    """

    on_writable: list[Callable[[], object]]
    """Called when messages can be sent again after `say` has refused one."""

    def say(self, topic: Topic, message: bytes) -> bool:
        """Send a message about one run. Does not wait and does not raise; False: not now, so again when it is writable."""
        ...

    def listen(self, topic: Topic, hear: Callable[[bytes], object]) -> Listening:
        """Hear what was said on a topic and is kept, then what is said.

        The messages of a run come in their order. One may come twice, and some may be missing, as after an outage: the
        listener looks at their numbers. `hear` must not wait and must not raise.
        """
        ...
