"""What a ledger promises: what every observer does, checked by Trackside's own tests, and what is in the file."""

import asyncio
import csv
from pathlib import Path
from typing import Any

import pytest
from trackside_cost_ledger import CostLedger
from trackside_cost_ledger.ledger import HEAD

from trackside import LifecycleEventType, RunStatus
from trackside.app.delivery import ObserverOptionError
from trackside.testing import ObserverContract, make_event, make_run


def rows_of(path: Path) -> list[dict[str, str]]:
    """The lines of the ledger."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestCostLedger(ObserverContract):
    """What holds for every observer holds for this one: no end is lost, and none that comes again is counted again."""

    complete = True
    idempotent = True

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Path:
        """Where the file is."""
        return tmp_path / "costs.csv"

    @pytest.fixture
    def observer(self, ledger: Path) -> CostLedger:
        """A ledger that has not been used yet."""
        self.path = ledger
        return CostLedger(path=str(ledger))

    async def effects(self, observer: CostLedger) -> list[str]:
        """The events that are in the file."""
        return [row["event_id"] for row in rows_of(self.path)] if self.path.exists() else []


@pytest.mark.parametrize("status", [RunStatus.success, RunStatus.error, RunStatus.cancelled])
def test_a_run_is_one_line_however_it_ended(tmp_path: Path, status: RunStatus) -> None:
    """A run's other events add no line."""
    path = tmp_path / "costs.csv"
    end = make_run(status=status)[-2]
    used = {"total_input_tokens": 12, "total_output_tokens": 40, "cost_usd": 0.0012}
    end = make_event(end.event_type, payload={"agent": "chat, mostly", "status": status.value, "completion_data": used})
    asyncio.run(CostLedger(path=str(path)).on_events([*make_run(status=status)[:3], end]))

    (row,) = rows_of(path)
    assert list(row) == list(HEAD)
    assert (row["agent"], row["how"], row["input_tokens"], row["cost_usd"]) == (
        "chat, mostly",
        status.value,
        "12",
        "0.0012",
    )


def test_another_process_goes_on_with_the_file_and_mends_a_line_that_a_crash_tore(tmp_path: Path) -> None:
    """Whatever the file ends with, each end is in it once, on a line of its own."""
    path = tmp_path / "costs.csv"
    first, second = (make_event(LifecycleEventType.RUN_COMPLETED, run_id=name) for name in ("run-1", "run-2"))
    asyncio.run(CostLedger(path=str(path)).on_event(first))
    whole = path.read_bytes()
    path.write_bytes(whole + second.event_id.encode() + b",2026-01")  # killed while writing

    asyncio.run(CostLedger(path=str(path)).on_events([first, second]))

    assert path.read_bytes().startswith(whole)
    assert [row["event_id"] for row in rows_of(path)] == [first.event_id, second.event_id]


def test_whatever_somebody_elses_harness_says_a_run_is_one_line(tmp_path: Path) -> None:
    """The end of a line tells whether it was written whole."""
    path = tmp_path / "costs.csv"
    ledger = CostLedger(path=str(path))
    for payload in ({"agent": "two\nlines", "completion_data": ["none"]}, {"agent": None, "status": 7}):
        asyncio.run(ledger.on_event(make_event(LifecycleEventType.RUN_FAILED, payload=payload)))

    assert [(row["agent"], row["how"]) for row in rows_of(path)] == [("two lines", "failed"), ("None", "7")]
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("path", ["", 7, "nowhere/costs.csv"])
def test_a_path_that_cannot_be_is_refused_at_the_start(path: Any) -> None:
    """Trackside's message names the file and the key."""
    with pytest.raises(ObserverOptionError, match="path: "):
        CostLedger(path=path)
