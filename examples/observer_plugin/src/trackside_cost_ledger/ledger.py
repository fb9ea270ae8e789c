"""The ledger, and the observer that keeps it."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.delivery import Delivery, ObserverOptionError, Order

HEAD = ("event_id", "ended_at", "run_id", "thread_id", "agent", "how", "input_tokens", "output_tokens", "cost_usd")
_ENDS = (LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED)


class CostLedger:
    """Appends a line to a CSV file for each run that has ended, however it ended.

    It is durable: Trackside remembers how far it has come in the log, and gives it each event at least once. An event
    may come again because nobody knows whether the first time succeeded; the ledger knows it by its id. For that it
    reads the file once and keeps all ids in memory: about 100 bytes a line, so begin a new file before it has millions.

    Args:
        path: the file; it is created, but its folder has to exist.

    Raises:
        ObserverOptionError: the folder does not exist.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.log
    events: ClassVar[tuple[LifecycleEventType, ...]] = _ENDS

    def __init__(self, *, path: str) -> None:
        if type(path) is not str or not path:  # the settings file may hold anything here
            raise ObserverOptionError(option="path", why="it is the name of a file")
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ObserverOptionError(option="path", why=f"there is no folder {self._path.parent}")
        self._guard = threading.Lock()
        self._known: set[str] = set()
        self._size = -1

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Write down the end of a run."""
        await self.on_events([event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Write down the ends of runs, with one flush to disk for all of them."""
        ends = [event for event in events if event.event_type in _ENDS]
        if ends:
            await asyncio.to_thread(self._append, ends)

    def _append(self, ends: Sequence[RunLifecycleEvent]) -> None:
        # A cancelled call goes on in its thread while the same events come again.
        with self._guard, self._path.open("a+b") as file:
            self._catch_up(file)
            new = {event.event_id: event for event in ends if event.event_id not in self._known}
            file.write(_lines([_row(event) for event in new.values()]))
            file.flush()
            os.fsync(file.fileno())
            self._known |= new.keys()
            self._size = file.tell()

    def _catch_up(self, file: io.BufferedRandom) -> None:
        """Read what is there, if somebody else has written since; cut off a line that a crash left unfinished."""
        if file.seek(0, os.SEEK_END) == self._size:
            return
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            file.truncate(len(whole))
        if not whole:
            file.write(_lines([HEAD]))
        rows = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))
        self._known = {row[0] for row in rows if row}


def _row(event: RunLifecycleEvent) -> Sequence[object]:
    """What is recorded of an end. A payload may say anything, or nothing: somebody else's harness may have sent it."""
    used = event.payload.get("completion_data")
    if not isinstance(used, Mapping):
        used = {}
    cells = (
        event.event_id,
        event.occurred_at.isoformat(timespec="seconds"),
        event.run_id,
        event.thread_id,
        event.payload.get("agent", ""),
        event.payload.get("status") or event.event_type.removeprefix("run_"),
        used.get("total_input_tokens", 0),
        used.get("total_output_tokens", 0),
        used.get("cost_usd", ""),
    )
    return [" ".join(str(cell).split()) for cell in cells]  # a record is one line: that is how a torn one is found


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
