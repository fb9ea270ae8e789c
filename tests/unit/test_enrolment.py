"""How a worker gives signs of life: on the connection that writes all else, beside it only while that is held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from trackside.app.storage._coordination import enrolment as enrolment_module
from trackside.app.storage._coordination.enrolment import Enrolment
from trackside.app.storage._coordination.membership import Register
from trackside.app.storage._writing.work import Refused
from trackside.app.storage.errors import TooManyConnectionsError


class HeldUpWriter:
    """Records where signs of life are put; the test decides what becomes of them."""

    def __init__(self) -> None:
        self.put_where: list[str] = []
        self.beats: list[asyncio.Future[Any]] = []
        self.needed_none_beside = 0

    async def write(self, work: Register) -> bool:
        work.written_at = monotonic()
        return False

    def put(self, work: Register) -> asyncio.Future[Any]:
        return self._take("behind", work)

    def put_beside(self, work: Register) -> asyncio.Future[Any]:
        return self._take("beside", work)

    def _take(self, where: str, work: Register) -> asyncio.Future[Any]:
        work.written_at = monotonic()
        self.put_where.append(where)
        self.beats.append(asyncio.get_running_loop().create_future())
        return self.beats[-1]

    def need_none_beside(self) -> None:
        self.needed_none_beside += 1


class StillHeart:
    """Beats when the test says so."""

    def __init__(self, beat: Callable[[], object], *, every: float) -> None:
        self.beat = beat


async def enrolled(writer: HeldUpWriter, monkeypatch: pytest.MonkeyPatch) -> tuple[Enrolment, Callable[[], object]]:
    monkeypatch.setattr(enrolment_module, "Heart", StillHeart)
    enrolment = Enrolment(writer, worker_id="w", lease_seconds=15, on_enrolled=lambda: None)  # type: ignore[arg-type]
    await enrolment.enroll()
    return enrolment, enrolment._heart.beat  # type: ignore[union-attr]


async def heard() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_signs_of_life_come_back_to_the_writer_when_it_writes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = HeldUpWriter()
    _, beat = await enrolled(writer, monkeypatch)
    refused = Refused(TooManyConnectionsError(database="d", why="too many"))
    beat()
    beat()  # the first is late
    writer.beats[1].set_result(refused)
    beat()  # no connection was free beside it, and the first is even later
    await heard()
    assert writer.put_where == ["behind", "beside", "beside"]
    assert writer.needed_none_beside == 0

    writer.beats[0].set_result(False)
    await heard()
    assert writer.needed_none_beside == 1
    beat()
    writer.beats[3].set_result(refused)  # the database is away: a refusal holds nothing up
    await heard()
    beat()
    assert writer.put_where[3:] == ["behind", "behind"]


async def test_who_is_about_to_take_a_run_is_known_ahead_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = HeldUpWriter()
    enrolment, beat = await enrolled(writer, monkeypatch)
    monkeypatch.setattr(enrolment, "_known_until", 0.0)
    beat()
    enrolment.stay()  # one is on its way
    assert writer.put_where == ["behind"]
    beat()
    writer.beats[0].set_result(Refused(TooManyConnectionsError(database="d", why="too many")))
    await heard()
    enrolment.stay()  # the one beside is not ahead of the next write
    assert writer.put_where == ["behind", "beside", "behind"]
