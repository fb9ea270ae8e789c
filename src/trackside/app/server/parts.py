"""The parts of a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trackside.app.server.auth import Authenticator
from trackside.app.server.auth.handlers import Handlers
from trackside.app.server.health import Health
from trackside.app.server.log_stream import EventFrames
from trackside.app.server.system import SystemSources
from trackside.app.storage import Store
from trackside.app.streams import Mirrors, StreamHub
from trackside.app.vitals import Vitals
from trackside.harness import RunManager


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server behaves, whoever set it. Times are seconds."""

    heartbeat: float = 5.0
    """How often a waiting connection shows that it is alive."""
    patience: float = 30.0
    """How long a follower of a stream may take nothing before it is let go."""
    max_body_bytes: int = 16 * 1_048_576
    body_seconds: float = 60.0
    """How long the body of a request may take to arrive."""
    hosts: tuple[str, ...] = ()
    """Names besides localhost that a server without authentication answers to."""
    origins: tuple[str, ...] = ()
    """Origins of pages that browsers let use the server."""
    rate: str | None = None
    """How often a client may ask, as `100/second`."""
    max_streams: int | None = None
    """How many streams a client may follow at once."""
    item_kinds: tuple[str, ...] = ("memories",)
    """Labels that may come before that of the owner in the namespace of items."""
    configurable_headers: tuple[str, ...] = ()
    """Request headers that become part of the configs of the runs that the requests start."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """What the agents are for, by their names."""
    console: bool = False
    """Whether there are pages for people at `/ui`."""
    folders: Sequence[str] = ()
    """Folders in which this process writes files, and which must not run out of space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts:
    """Everything that requests are answered with."""

    manager: RunManager
    store: Store
    streams: StreamHub
    mirrors: Mirrors | None = None
    """What a server of a fleet hears of the runs that workers execute; None: runs that are let in here execute here."""
    checkpointer: Any
    """Keeps the threads of graphs that have no checkpointer of their own; None if there are none."""
    vitals: Vitals
    options: ServerOptions = field(default_factory=ServerOptions)
    authenticator: Authenticator | None = None
    """Identifies clients; None: nobody is asked who they are, and everybody may do everything."""
    observers: Sequence[Any] = ()
    """The live observers that the settings name; the metrics observer answers `/metrics`."""
    frames: EventFrames = field(default_factory=EventFrames)
    """The latest events in the form in which readers of the log get them."""
    expect_webhook: Callable[[str], Awaitable[None]] | None = None
    """Checks, before a run is let in, that the address can be told of its end; None: no run can have one."""
    system: SystemSources = field(default_factory=SystemSources)
    """What only whoever assembled the server knows about it."""
    health: Health = field(default_factory=Health)
    """Whether the server can do its work."""

    @property
    def executes(self) -> bool:
        """Whether runs that are let in here also execute here."""
        return self.mirrors is None

    @property
    def handlers(self) -> Handlers | None:
        """What decides, besides ownership, what each known client may do; None: nothing."""
        return getattr(self.authenticator, "handlers", None)
