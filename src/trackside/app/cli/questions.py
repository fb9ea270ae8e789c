"""What a paused run asks, and the command that answers it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trackside.app.cli.formatting import json_line
from trackside.app.settings import Settings
from trackside.harness.types import JsonObject


def interrupts_of(payload: Mapping[str, Any]) -> list[JsonObject]:
    """The questions that a `run_completed` leaves open."""
    interrupts = payload.get("interrupts") or ()
    return [interrupt for interrupt in interrupts if isinstance(interrupt, dict)]


def question_text(interrupt: JsonObject) -> str:
    """The question of an interrupt: its text as it stands, anything else as JSON; at a breakpoint, what comes next."""
    value, following = interrupt.get("value"), interrupt.get("next")
    if value is None and isinstance(following, list):
        return f"before {', '.join(map(str, following))}"
    return value if isinstance(value, str) else json_line(value)


def resume_command(thread_id: str, interrupts: Sequence[JsonObject], settings: Settings) -> str:
    """How to answer the questions of a thread: all of them at once, by their ids where there are several."""
    ids = [str(interrupt.get("id")) for interrupt in interrupts]
    answer = shlex.quote(json.dumps(dict.fromkeys(ids, "ANSWER"))) if len(ids) > 1 else "'ANSWER'"
    # Settings from the environment or the file are there the next time, too.
    given = settings.database_source == "--database"
    database = f" --database {shlex.quote(settings.database_shown)}" if given else ""
    return f"trackside resume {shlex.quote(thread_id)} {answer}{database}"
