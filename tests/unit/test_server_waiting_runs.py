"""Why a run has not started, judged by its state and by the existing processes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from trackside.app.server.waiting_runs import explained
from trackside.app.storage import RunPlace
from trackside.app.storage.fleet import StoredWorker

READY = RunPlace(is_delayed=False, is_waiting=True, holds=True, owner=None, pool="gpu", version=None)
WORKER = StoredWorker(
    worker_id="w",
    name="host:1",
    kind="worker",
    pools=("default", "gpu"),
    agents=("draw", "sing"),
    version="2",
    capacity=4,
    running=4,
    draining=False,
    started_at=datetime(2026, 1, 31, tzinfo=UTC),
    last_seen_at=datetime(2026, 1, 31, tzinfo=UTC),
    seconds_left=5.0,
    address=None,
    isolated_in=None,
    release="0.1.0",
)
SERVER = replace(WORKER, worker_id="s", kind="server", pools=(), capacity=0, running=0)
INLINE = replace(WORKER, worker_id="i", kind="inline", pools=(), agents=(), version=None, capacity=0)


@pytest.mark.parametrize(
    ("workers", "why"),
    [
        ([], "no live worker takes runs of the pool 'gpu'"),
        ([SERVER], "no live worker takes runs of the pool 'gpu'"),
        ([replace(WORKER, pools=("default",))], "no live worker takes runs of the pool 'gpu'"),
        ([replace(WORKER, isolated_in="x")], "no live worker takes runs of the pool 'gpu'"),
        ([replace(WORKER, seconds_left=0.0)], "no live worker takes runs of the pool 'gpu'"),
        ([replace(WORKER, agents=("sing",)), SERVER], "no live worker of the pool 'gpu' has the agent 'draw'"),
        ([replace(WORKER, draining=True)], "all live workers that have the agent 'draw' are being drained"),
    ],
)
def test_what_no_live_worker_has_is_named(workers: list[StoredWorker], why: str) -> None:
    said = explained(READY, "draw", workers)
    assert (said.what, said.why) == ("worker", why)


def test_a_version_that_no_live_worker_has_is_named_with_those_that_there_are() -> None:
    others = [WORKER, replace(WORKER, worker_id="x", version="1"), replace(WORKER, worker_id="y", version=None)]
    said = explained(replace(READY, version="3"), "draw", others)
    assert said.what == "worker"
    assert (
        said.why == "no live worker has the agent 'draw' in the version '3'; there are '1', '2' and workers without one"
    )
    assert explained(replace(READY, version="2"), "draw", others).what == "place"


@pytest.mark.parametrize("drained", [False, True])
def test_who_could_take_it_has_no_place(drained: bool) -> None:
    """One worker that could take it, and stays, is enough."""
    workers = [WORKER, replace(WORKER, worker_id="x", draining=drained)]
    said = explained(READY, "draw", workers)
    assert said.what == "place"
    assert "'gpu'" in said.why


def test_an_inline_server_takes_what_nobody_has_but_not_of_pools() -> None:
    of_no_pool = replace(READY, pool="default")
    assert explained(of_no_pool, "draw", [INLINE]).what == "place"
    assert explained(of_no_pool, "draw", [replace(INLINE, seconds_left=0.0)]).what == "worker"
    assert explained(READY, "draw", [INLINE]).why == "no live worker takes runs of the pool 'gpu'"


def test_time_and_thread_come_before_workers() -> None:
    assert explained(replace(READY, is_delayed=True, is_waiting=False, holds=False), "draw", []).what == "time"
    assert explained(replace(READY, holds=False), "draw", []).what == "thread"


def test_what_somebody_has_waits_for_his_place_or_for_somebody_who_takes_it_over() -> None:
    mine = replace(READY, owner="i")
    assert explained(mine, "draw", [INLINE]).what == "place"
    for others in ([], [replace(INLINE, seconds_left=0.0)], [WORKER]):
        said = explained(mine, "draw", others)
        assert (said.what, "is gone" in said.why) == ("worker", True)
