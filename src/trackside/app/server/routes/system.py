"""What the server is and what it works with, for operators."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from msgspec import convert

from trackside._version import __version__
from trackside.app.server.authorizing import OPERATION
from trackside.app.server.health import INLINE
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.system import (
    DatabaseFacts,
    EngineFacts,
    SettingShown,
    SpoolFacts,
    System,
    SystemFinding,
    Worker,
)
from trackside.app.vitals import EngineVitals

routes = Routes("Server")


def _engine(engine: EngineVitals | None) -> EngineFacts:
    if engine is None:
        return EngineFacts(name=INLINE, connected=True, why=None, since=None, counts={})
    status = engine.status
    return EngineFacts(
        name=engine.name,
        connected=status.connected,
        why=status.why,
        since=status.since,
        counts=asdict(engine.stats),
    )


@routes.get("/system", Permission.admin, about=OPERATION, answers={200: System})
async def get_system(call: Call[None, None]) -> Any:
    """Get the server's version, database, workers, spool and settings, and what is wrong around it.

    What is wrong is what `trackside doctor` finds in moments: the server imports no agent for it, and reads no file as
    a whole. Secrets are masked.
    """
    sources = call.parts.system
    facts = await call.parts.store.facts()
    around = await sources.looker.look(sources.look)
    spool = around.spool
    return System(
        version=__version__,
        python=platform.python_version(),
        started_at=sources.started_at,
        database=DatabaseFacts(
            url=sources.database,
            **{name: getattr(facts, name) for name in DatabaseFacts.__struct_fields__ if name != "url"},
        ),
        engine=_engine(call.parts.vitals.engine()),
        workers=[convert(worker, Worker, from_attributes=True) for worker in facts.workers],
        spool=SpoolFacts(
            folder=sources.spool,
            records=None if spool is None else spool.waiting,
            refused=None if spool is None else spool.refused,
            damaged=None if spool is None else spool.damaged,
        ),
        findings=[
            SystemFinding(
                level=found.level,  # type: ignore[arg-type]  # of the doctor's words
                what=found.what,
                where=found.where,
                next_command=found.next_command or None,
            )
            for found in around.findings
        ],
        settings={name: SettingShown(value=one.value, source=one.source) for name, one in sources.settings.items()},
    )
