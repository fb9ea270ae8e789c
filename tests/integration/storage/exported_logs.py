"""Logs to export: runs of several kinds, their exports as bytes, and all that a database tells of them."""

import io
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import (
    counters,
    duration_totals,
    events,
    run_labels,
    run_totals,
    runs,
    threads,
    usage,
    usage_totals,
)

FORMATS = ["jsonl", "parquet"]
LONG_AGO = datetime(2020, 1, 1, 3, 4, 5, 678901, UTC)
USAGE = {"input_tokens": 10, "output_tokens": 4, "cost_usd": 0.1}
DATA: dict[str, Any] = {
    "total_input_tokens": 10,
    "duration_seconds": 1.5,
    "cost_usd": 0.1,
    "token_usage_by_model": {"small": USAGE},
    "token_usage_by_caller": {"lead_agent": USAGE},
}
ODD = {"z": 1, "a": [1.0, -0.0, 1e300, 2**63, None, True], "text": 'Zoë\u2028"\\/\n\x7f😀', "": {"nested": {}}}

type Another = Callable[[], AbstractAsyncContextManager[Store]]


async def fill(store: Store, script) -> None:
    """Runs of several kinds, some of them at once, and a hole where an old one was removed."""
    done, asking, failed, running = script(), script(), script(), script()
    gone = script(start=LONG_AGO)
    await store.append([done.started(metadata={"n": 1, "who": "Zoë"}, odd=ODD), gone.started(), asking.started()])
    await store.append(
        [gone.completed(), done.thread("busy"), running.started(parent_run_id=done.run_id), failed.started()]
    )
    await store.append([done.completed("A title", **DATA), failed.failed("timeout"), done.thread("idle")])
    await store.append([asking.event("run_completed", status="interrupted", interrupts=[{"id": "1", "value": "?"}])])
    await store.append([asking.thread("interrupted"), script().event("run_cancelled", cancel_mode="shutdown")])
    last = script(start=LONG_AGO)
    await store.append([last.started(), last.completed()])  # the counter goes on from there all the same
    assert (await store.prune(older_than=timedelta(days=1000))).runs == 2


async def exported(store: Store, **options: Any) -> bytes:
    file = io.BytesIO()
    await store.export_events(file, **options)
    return file.getvalue()


async def told(store: Store) -> dict[str, Any]:
    """All that follows from events."""
    tables = (events, runs, threads, usage, run_labels, run_totals, duration_totals, usage_totals, counters)

    def read(connection: Any) -> dict[str, Any]:
        rows = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr) for table in tables
        }
        rows["counters"] = [row for row in rows["counters"] if row[0] == "position"]
        return rows

    return await store._readers.run(read)


def made(*events: dict[str, Any], to: int) -> io.BytesIO:
    """An export, as somebody else has written it."""
    header = {"format": "trackside.events", "version": 1, "to": to, "chosen": {}}
    lines = [header, *events, {"events": len(events)}]
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
