"""Commands to type next, ready to be copied."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from trackside.app.settings import Settings
from trackside.harness.types import JsonObject


def resume_command(thread_id: str, interrupts: Sequence[JsonObject], settings: Settings) -> str:
    """How to answer the questions of a thread: all of them at once, by their ids where there are several."""
    ids = [str(interrupt.get("id")) for interrupt in interrupts]
    answer = shlex.quote(json.dumps(dict.fromkeys(ids, "ANSWER"))) if len(ids) > 1 else "'ANSWER'"
    return f"trackside resume {shlex.quote(thread_id)} {answer}{_flags(settings)}"


def show_command(run_id: str, settings: Settings) -> str:
    """How to look at a run again."""
    return f"trackside runs {shlex.quote(run_id)}{_flags(settings)}"


def _flags(settings: Settings) -> str:
    # What came from the environment or the file is there the next time, too.
    given = settings.database_source == "--database"
    return f" --database {shlex.quote(settings.database_url)}" if given else ""
