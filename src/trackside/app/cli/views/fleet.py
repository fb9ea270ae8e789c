"""Prints a fleet: a line for each process, for each pool, and for everything that no worker serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.text import Text

from trackside.app.cli.formatting import ago, count, duration, one_line
from trackside.app.cli.records.fleet import EXECUTING, DutyNow, QueueNow, UnservedNow, WorkerNow
from trackside.app.cli.views.appearance import Look
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.overviews import look_text
from trackside.app.cli.views.tables import Column, print_table
from trackside.app.vitals import PoolDepth

_ALIVE: Final = Look("✓", "+", "alive", "green")
_DRAINING: Final = Look("‖", "=", "draining", "yellow")
_GONE: Final = Look("✗", "x", "gone", "red")
_NOBODY: Final = Look("✗", "x", "nobody", "red")


def print_workers(console: OutputConsole, workers: Sequence[WorkerNow], now: datetime) -> None:
    """Print a table of processes."""
    names = {worker.worker_id: worker.name for worker in workers}
    columns: list[Column[WorkerNow]] = [
        Column(title="NAME", cell=lambda one: one_line(one.name), least=12, keep_end=True),
        Column(title="STATE", cell=lambda one: look_text(console, _look_of(one))),
        Column(title="KIND", cell=lambda one: _kind(one, names), rank=5),
        Column(title="TAKEN", cell=_taken, rank=1, right=True),
        Column(title="POOLS", cell=lambda one: one_line(", ".join(one.pools)), rank=2, least=8),
        Column(title="AGENTS", cell=lambda one: one_line(", ".join(one.agents)), rank=3, least=12),
        Column(title="VERSION", cell=lambda one: one_line(one.version or ""), rank=6, least=8),
        Column(title="SEEN", cell=lambda one: "" if one.last_seen_at is None else ago(one.last_seen_at, now), rank=4),
        Column(title="SINCE", cell=lambda one: ago(one.started_at, now), rank=7),
        Column(title="ID", cell=lambda one: one.worker_id, rank=8),
        Column(title="HEALTH", cell=lambda one: one_line(one.address or ""), rank=9),
    ]
    print_table(console, columns, workers)


def print_queue(console: OutputConsole, queue: QueueNow, now: datetime) -> None:
    """Print a table of pools, and below it what no live worker serves."""
    pools = [pool for pool in queue.pools if pool.is_used]
    columns: list[Column[PoolDepth]] = [
        Column(title="POOL", cell=lambda pool: one_line(pool.pool), least=8),
        Column(title="READY", cell=_ready, right=True),
        Column(title="READY FOR", cell=lambda pool: _waited(pool.oldest_ready_at, now), rank=1),
        Column(title="WAITING", cell=lambda pool: f"{pool.waiting:,}", rank=3, right=True),
        Column(title="DELAYED", cell=lambda pool: f"{pool.delayed:,}", rank=4, right=True),
        Column(title="RUNNING", cell=lambda pool: f"{pool.running:,}", rank=2, right=True),
        Column(title="WORKERS", cell=lambda pool: f"{pool.workers:,}", rank=2, right=True),
        Column(title="FREE", cell=lambda pool: f"{pool.free:,}/{pool.places:,}", rank=5, right=True),
    ]
    if pools:
        print_table(console, columns, pools)
    elif not queue.unserved:
        console.print("Nothing waits for workers.", style="dim")
    for unserved in queue.unserved:
        line = Text(f"{console.symbol(_NOBODY)} {_told(unserved, now)}", "red")
        console.print(line, soft_wrap=True)


def print_duties(
    console: OutputConsole, duties: Sequence[DutyNow], workers: Sequence[WorkerNow], now: datetime
) -> None:
    """Print a table of the duties that one process has for all."""
    names = {worker.worker_id: worker.name for worker in workers}
    columns: list[Column[DutyNow]] = [
        Column(title="DUTY", cell=lambda duty: one_line(duty.name)),
        Column(title="HOLDER", cell=lambda duty: _holder(console, duty, names), least=12),
        Column(title="SINCE", cell=lambda duty: "" if duty.since is None else ago(duty.since, now), rank=1),
    ]
    print_table(console, columns, duties)


def _look_of(worker: WorkerNow) -> Look:
    if not worker.is_alive:
        return _GONE
    return _DRAINING if worker.draining else _ALIVE


def _kind(worker: WorkerNow, names: Mapping[str, str]) -> str:
    if worker.isolated_in is None:
        return worker.kind
    return f"in {one_line(names.get(worker.isolated_in, worker.isolated_in))}"


def _taken(worker: WorkerNow) -> str:
    """How many places are taken, out of how many."""
    return f"{worker.running:,}/{worker.capacity:,}" if worker.kind == EXECUTING else ""


def _ready(pool: PoolDepth) -> Text:
    return Text(f"{pool.ready:,}", "yellow" if pool.ready and not pool.free else "")


def _waited(since: datetime | None, now: datetime) -> str:
    return "" if since is None else duration((now - since).total_seconds())


def _told(unserved: UnservedNow, now: datetime) -> str:
    version = "" if unserved.version is None else f" in version {one_line(unserved.version)}"
    wait = "waits" if unserved.count == 1 else "wait"
    waited = "" if unserved.oldest_at is None else f", for {_waited(unserved.oldest_at, now)}"
    agent = one_line(unserved.agent or "an unknown agent")
    return f"{count(unserved.count, 'run')} of {agent}{version} {wait}{waited}: no live worker serves it"


def _holder(console: OutputConsole, duty: DutyNow, names: Mapping[str, str]) -> Text:
    if duty.holder is None or duty.seconds_left <= 0:
        return look_text(console, _NOBODY)
    return Text(one_line(names.get(duty.holder, duty.holder)))
