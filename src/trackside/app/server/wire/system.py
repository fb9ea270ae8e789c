"""What a server is and works with, on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct


class DatabaseFacts(Struct, frozen=True, kw_only=True):
    """What the database is, and what it holds."""

    kind: str
    """`sqlite` or `postgresql`."""
    url: str
    """Without its password."""
    schema: str
    """The revision of its tables."""
    size_bytes: int
    events: int
    """The position of the last one: how many there ever were."""
    runs: int
    threads: int
    """100,000 stands for so many or more."""
    oldest_event_at: datetime | None


class Worker(Struct, frozen=True, kw_only=True):
    """A process that looks after runs in the database."""

    id: str
    host: str
    pid: int | None
    started_at: datetime
    last_seen_at: datetime
    """About when it gave a sign of life."""
    alive: bool
    """False: its runs are anybody's to end or take."""
    running: int
    is_this: bool


class EngineFacts(Struct, frozen=True, kw_only=True):
    """What moves runs between processes; `inline` moves none. If it is cut off, `why` and since when."""

    name: str
    connected: bool
    why: str | None
    since: datetime | None
    counts: Mapping[str, int]
    """What it has done in this process so far."""


class SpoolFacts(Struct, frozen=True, kw_only=True):
    """What the database could not take, and this machine's disk keeps; null where nobody could look."""

    folder: str | None
    records: int | None
    refused: int | None
    damaged: int | None


class SystemFinding(Struct, frozen=True, kw_only=True):
    """Something that is wrong, or good to know."""

    level: Literal["error", "warning", "note"]
    what: str
    where: str
    next_command: str | None
    """What to do about it."""


class SettingShown(Struct, frozen=True, kw_only=True):
    """A setting as it may be shown: a secret is shown as dots."""

    value: Any
    source: str | None
    """Who set it; null: nobody, it is the default."""


class System(Struct, frozen=True, kw_only=True):
    """What the server is and what it works with."""

    version: str
    python: str
    started_at: datetime
    database: DatabaseFacts
    workers: list[Worker]
    engine: EngineFacts
    spool: SpoolFacts
    findings: list[SystemFinding]
    settings: Mapping[str, SettingShown]
