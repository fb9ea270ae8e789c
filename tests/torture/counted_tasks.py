"""How many asyncio tasks a process has: a thread counts them where `COUNT_TASKS` names a folder for the number."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "COUNT_TASKS"
_EVERY: Final = 5.0  # seconds; it looks at all objects, as tasks may be of any loop


def begin() -> None:
    """Count from now on, as long as this process lives."""
    threading.Thread(target=_count, name="counted-tasks", daemon=True).start()


def number_of(pid: int, folder: Path) -> float | None:
    """The last count of a process; None if it does not count."""
    file = folder / f"tasks-{pid}"
    return float(file.read_text("ascii")) if file.exists() else None


def _count() -> None:
    file = Path(os.environ[VARIABLE]) / f"tasks-{os.getpid()}"
    while True:
        number = sum(isinstance(one, asyncio.Task) and not one.done() for one in gc.get_objects())
        fresh = file.with_suffix(".new")
        fresh.write_text(str(number), "ascii")
        fresh.replace(file)
        time.sleep(_EVERY)
