"""The places of a worker that isolates its runs: each gets a process again, however long none could be started."""

from typing import Any, NoReturn

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.engine import supervisor as engine
from trackside.app.engine.supervisor import Isolation, Supervisor


@virtual
async def test_a_place_whose_process_cannot_be_started_for_a_night_has_one_tried_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody: Any = None
    supervisor = Supervisor(
        nobody,
        "w",
        nobody,
        lease=30.0,
        note_gone=lambda _: None,
        note_running=lambda _: None,
        note_leaving=lambda: None,
        on_drain=[],
    )
    tried = 0

    async def start(*_: object) -> NoReturn:
        nonlocal tried
        tried += 1
        if tried == 1_500:  # after twelve hours
            await supervisor.end(0.0)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(engine.ChildProcess, "start", start)
    await supervisor._keep(Isolation(command=[], environ={}, places=1, memory_limit=None), None)
    assert tried == 1_500
