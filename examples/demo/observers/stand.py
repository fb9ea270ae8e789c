"""What all receivers of the demo have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import ClassVar

from rich.console import Console
from rich.text import Text

from demo.observers.record import Arrival, Record
from trackside.app.wiring import App


class Stand(ABC):
    """A receiver beside the runs."""

    name: ClassVar[str]

    async def open(self, stack: AsyncExitStack) -> None:  # noqa: B027  # some have nothing to do
        """Begin to receive; `stack` ends it."""

    @abstractmethod
    def settings(self) -> str:
        """The tables of `trackside.toml` that have events sent to it. Called once, when it is open."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it can be reached."""

    @abstractmethod
    def came(self) -> str:
        """What has come so far, in a few words. Called in any thread."""

    async def settle(self, app: App, record: Record) -> None:  # noqa: B027  # durable observers have delivered by then
        """Wait, for a bounded time, until everything that is on its way has arrived."""

    @abstractmethod
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        """What it should have got, and what it got."""

    @abstractmethod
    def show(self, console: Console, record: Record) -> None:
        """Print what it got."""


def headline(console: Console, title: str, remark: str = "") -> None:
    """Begin the part of the output that is about one receiver."""
    console.print()
    console.rule(title, style="dim")
    if remark:
        console.print(Text(remark, "dim"))
