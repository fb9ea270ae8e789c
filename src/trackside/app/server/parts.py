"""What a server is made of."""

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
    """How often a connection that waits says that it is alive."""
    patience: float = 30.0
    """How long who follows a stream may take nothing before he is let go."""
    max_body_bytes: int = 16 * 1_048_576
    body_seconds: float = 60.0
    """How long the body of a request may take to come."""
    hosts: tuple[str, ...] = ()
    """Names besides localhost that a server answers to which asks nobody who he is."""
    origins: tuple[str, ...] = ()
    """Pages that browsers let use the server."""
    rate: str | None = None
    """How often a client may ask, as `100/second`."""
    max_streams: int | None = None
    """How many streams a client may follow at once."""
    item_kinds: tuple[str, ...] = ("memories",)
    """Labels that may stand before that of who owns the items of a namespace."""
    configurable_headers: tuple[str, ...] = ()
    """Headers of requests that become part of the configs of the runs that they start."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """What the agents are for, by their names."""
    console: bool = False
    """Whether there are pages for people at `/ui`."""
    folders: Sequence[str] = ()
    """Where this process writes files that must not run out of space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts:
    """Everything that requests are answered with."""

    manager: RunManager
    store: Store
    streams: StreamHub
    mirrors: Mirrors | None = None
    """What a server of a fleet hears of the runs that workers execute; None: those that are let in here run here."""
    checkpointer: Any
    """What keeps the threads of graphs that have no checkpointer of their own; None if there are none."""
    vitals: Vitals
    options: ServerOptions = field(default_factory=ServerOptions)
    authenticator: Authenticator | None = None
    """Who knows who asks; None: nobody is asked, and everybody may do everything."""
    observers: Sequence[Any] = ()
    """The live observers that the settings name; `/metrics` is the metrics observer's."""
    frames: EventFrames = field(default_factory=EventFrames)
    """The latest events as readers of the log get them."""
    expect_webhook: Callable[[str], Awaitable[None]] | None = None
    """Sees that the address can be told of a run's end before the run is let in; None: no run can have one."""
    system: SystemSources = field(default_factory=SystemSources)
    """What only whoever assembled the server knows of it."""
    health: Health = field(default_factory=Health)
    """Whether the server can do its work."""

    @property
    def executes(self) -> bool:
        """Whether runs that are let in here are executed here."""
        return self.mirrors is None

    @property
    def handlers(self) -> Handlers | None:
        """What decides, besides ownership, what each may do who is known; None: nothing."""
        return getattr(self.authenticator, "handlers", None)
