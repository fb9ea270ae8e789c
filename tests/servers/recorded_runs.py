"""Runs as an export has them: any times, any number of events, anything in any field."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from trackside_server import EXECUTABLE

MARKUP = '<img src=x onerror="document.title=\'run\'"><script>document.title="run"</script>'
"""Markup that would show on a page if it were not escaped."""
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def id_of(number: int) -> str:
    """The id of a run, or of its thread."""
    return str(UUID(int=(0x0190_0000_0000_7000_8000 << 48) + number))


def run_events(
    number: int,
    *,
    start: Mapping[str, Any] | None = None,
    between: Iterable[Mapping[str, Any]] = (),
    end: Mapping[str, Any] | None = None,
    began: datetime = BEGAN,
    seconds: float = 10.0,
    kind: str = "run_completed",
) -> list[dict[str, Any]]:
    """The events of one run.

    Args:
        number: the number from which its id and its thread's are made.
        start: more of the payload of its first event.
        between: its human messages, in order.
        end: more of the payload of its last event; None: it has none.
        began: when it began.
        seconds: how long it took.
        kind: the type of its last event.
    """
    said: list[tuple[str, Any, datetime]] = [
        ("run_started", {"agent": "imported", "metadata": {}, **(start or {})}, began)
    ]
    said += [("human_message", {"message": message}, began) for message in between]
    if end is not None:
        outcome = {} if kind == "run_cancelled" else {"status": "success" if kind == "run_completed" else "error"}
        said.append((kind, {"agent": "imported", **outcome, **end}, began + timedelta(seconds=seconds)))
    return [
        {
            "event_type": event_type,
            "run_id": id_of(number),
            "thread_id": id_of(number + 1_000),
            "sequence": sequence,
            "occurred_at": f"{when:%Y-%m-%dT%H:%M:%S.%f}Z",
            "payload": payload,
        }
        for sequence, (event_type, payload, when) in enumerate(said, 1)
    ]


def import_runs(folder: Path, events: list[dict[str, Any]]) -> None:
    """Import events into the database of a server that starts in this folder."""
    lines = [json.dumps({"format": "trackside.events", "version": 1, "to": len(events), "chosen": {}})]
    lines += [
        json.dumps({"position": position, "event_id": str(UUID(int=(7 << 76) + (2 << 62) + position)), **event})
        for position, event in enumerate(events, 1)
    ]
    lines.append(json.dumps({"events": len(events)}))
    path = folder / "runs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [EXECUTABLE, "import", path, "--database", "sqlite:///runs.db"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
