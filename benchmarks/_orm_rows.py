"""Rows written one by one through SQLAlchemy's ORM, as many apps' data layers do: a session and a commit for each step.

An event gets its run's next number by `max() + 1` and is added; a run is a row that is added and changed twice. The
tables are this module's own, and smaller than the store's. It checks nothing.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self

import asyncpg
from sqlalchemy import JSON, AsyncAdaptedQueuePool, func, select
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trackside import RunLifecycleEvent
from trackside.harness.ids import new_id

_CONNECTIONS = 16
"""Connections to PostgreSQL. An SQLite file has one writer at a time: it gets one connection, and all wait for that."""
_MOST_SECONDS = 300


class Row(DeclarativeBase):
    """The base of all rows."""

    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012  # the form that SQLAlchemy wants


class RunRow(Row):
    """A run."""

    __tablename__ = "orm_runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    thread_id: Mapped[str] = mapped_column(index=True)
    status: Mapped[str]
    created_at: Mapped[str]
    updated_at: Mapped[str]


class EventRow(Row):
    """An event of a run."""

    __tablename__ = "orm_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(index=True)
    thread_id: Mapped[str] = mapped_column(index=True)
    sequence: Mapped[int]
    event_type: Mapped[str]
    occurred_at: Mapped[str]
    payload: Mapped[dict[str, Any]]


class OrmRows:
    """Writes events and runs."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncGenerator[Self]:
        """Open on this database, which is empty."""
        engine = _engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(Row.metadata.create_all)
        yield cls(async_sessionmaker(engine, expire_on_commit=False))
        await engine.dispose()

    async def append(self, event: RunLifecycleEvent) -> None:
        """Add one event and commit."""
        async with self._sessions.begin() as session:
            when = event.occurred_at.isoformat()
            await _add_event(session, event.run_id, event.thread_id, event.event_type.value, when, dict(event.payload))

    async def run(self) -> None:
        """One run on a thread of its own: admitted, started, ended, each committed before the next."""
        run_id, thread_id, now = new_id(), new_id(), datetime.now(UTC).isoformat()
        async with self._sessions.begin() as session:
            session.add(RunRow(run_id=run_id, thread_id=thread_id, status="pending", created_at=now, updated_at=now))
        for status, event_type in (("running", "run_started"), ("success", "run_completed")):
            async with self._sessions.begin() as session:
                row = await session.get_one(RunRow, run_id)
                row.status, row.updated_at = status, datetime.now(UTC).isoformat()
                for kind in (event_type, "thread_status_updated"):
                    await _add_event(session, run_id, thread_id, kind, row.updated_at, {"status": status})


async def _add_event(
    session: AsyncSession, run_id: str, thread_id: str, event_type: str, when: str, payload: dict[str, Any]
) -> None:
    last = await session.scalar(select(func.max(EventRow.sequence)).where(EventRow.run_id == run_id))
    session.add(
        EventRow(
            event_id=new_id(),
            run_id=run_id,
            thread_id=thread_id,
            sequence=(last or 0) + 1,
            event_type=event_type,
            occurred_at=when,
            payload=payload,
        )
    )


def _engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: asyncpg.connect(url),
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_MOST_SECONDS,
        )
    engine = create_async_engine(
        url.replace("sqlite://", "sqlite+aiosqlite://"),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=_MOST_SECONDS,
    )

    @sqlalchemy_event.listens_for(engine.sync_engine, "connect")
    def as_durable_as_the_store(connection: Any, record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return engine
