"""The check of fleets finds what is planted: a check that finds nothing proves nothing."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fleet_agents
import pytest
from blockbuster import BlockBuster
from fenced_journal import Entry, FencedJournal, FencedOff
from fleet_check import Asked, Counts, Words, look_over
from fleet_clients import Balanced, FleetClients

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store


@dataclass
class Kept:
    """What a fleet of one has left."""

    path: Path
    journal: FencedJournal
    words: Words

    def look(self) -> tuple[Counts, list[str]]:
        return look_over(f"sqlite:///{self.path}", self.journal, self.words)

    def change(self, sql: str) -> None:
        """Change the database behind everybody's back."""
        with closing(sqlite3.connect(self.path)) as database:
            database.execute(sql)
            database.commit()

    def rewrite(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Change the journal."""
        path = self.path.with_name("journal")
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        change(entries)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.fixture
async def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blockbuster: BlockBuster) -> Kept:
    """Three runs on one thread, as they should be."""
    blockbuster.deactivate()  # agents write their journal themselves
    journal = FencedJournal(tmp_path)
    monkeypatch.setattr(fleet_agents, "JOURNAL", journal)
    words = Words()
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        observers = [ObserverBinding(StorageObserver(store), required=True)]
        async with RunManager(
            {"talks": fleet_agents.talks},
            observers=observers,
            coordinator=store.coordinator(),
            states=store.thread_states(),
        ) as manager:
            for token in ("one", "two", "three"):
                spec = RunSpec("talks", {"token": token, "parts": 2}, thread_id="t", run_id=token)
                result = await (await manager.start(spec)).result()
                words.asked[token] = Asked(
                    token, "t", token, answer=result.output, is_answered=True, followed=[[0, 1]], parts=2
                )
    return Kept(tmp_path / "runs.db", journal, words)


async def test_what_is_as_it_should_be_is_found_to_be_so(kept: Kept) -> None:
    counts, wrong = await asyncio.to_thread(kept.look)
    assert wrong == []
    assert (counts.runs, counts.ends, counts.answered, counts.lost, counts.doubles, counts.stuck) == (3, 3, 3, 0, 0, 0)


def executed_twice(kept: Kept) -> None:
    hold = kept.journal.enter("one", "t")
    hold.write()
    hold.leave("done")


def by_two_processes(kept: Kept) -> None:
    kept.rewrite(lambda entries: entries[1].update(pid=1))


def at_once(kept: Kept) -> None:
    kept.rewrite(lambda entries: entries.insert(5, entries.pop(3)))  # "one" leaves after "two" has entered


def past_the_fence(kept: Kept) -> None:
    kept.rewrite(lambda entries: entries.append({**entries[2], "detail": "late"}))


def fenced_off(kept: Kept) -> None:
    kept.rewrite(lambda entries: entries[2].update(what="refused"))


def never_executed(kept: Kept) -> None:
    kept.rewrite(lambda entries: entries.__delitem__(slice(4, 8)))


def executed_in_secret(kept: Kept) -> None:
    hold = kept.journal.enter("secret", "another")
    hold.leave("done")


def lost(kept: Kept) -> None:
    kept.words.asked["four"] = Asked("four", "t", "four")


def an_event_lost(kept: Kept) -> None:
    kept.words.events["e"] = ("digest", "t")


def untrue(kept: Kept) -> None:
    kept.words.asked["two"].answer = {"token": "three"}


def told_of_a_failure(kept: Kept) -> None:
    kept.words.asked["two"].answer = {"__error__": {"error": "worker_lost", "message": ""}}


def twice_in_a_stream(kept: Kept) -> None:
    kept.words.asked["two"].followed = [[0, 1, 1]]


def missing_in_a_stream(kept: Kept) -> None:
    kept.words.asked["two"].followed = [[1]]


def has_not_ended(kept: Kept) -> None:
    kept.change("UPDATE runs SET ended_at = NULL, status = 'running' WHERE run_id = 'three'")


def stuck(kept: Kept) -> None:
    kept.change("UPDATE threads SET status = 'busy'")


def a_second_end(kept: Kept) -> None:
    kept.change("DROP INDEX uq_events_one_end")
    kept.change(
        "INSERT INTO events SELECT position + 100, event_id || 'x', run_id, thread_id, sequence + 100, event_type, "
        "occurred_at, payload FROM events WHERE run_id = 'three' AND event_type = 'run_completed'"
    )


def started_anew_for_nothing(kept: Kept) -> None:
    kept.change("UPDATE runs SET attempt = 2, retry_of = 'one' WHERE run_id = 'two'")


PLANTED = {
    executed_twice: "was executed by",
    by_two_processes: "was entered by",
    at_once: "began on thread t by",
    past_the_fence: "had left, and then there is",
    fenced_off: "had not been taken away",
    never_executed: "no agent came to its end",
    executed_in_secret: "its start is not in the log",
    lost: "was acknowledged, and is lost",
    an_event_lost: "event e was acknowledged, and is lost",
    untrue: "was told {'token': 'three'}, and not two",
    told_of_a_failure: "and it ended as success",
    twice_in_a_stream: "got the parts [0, 1, 1]",
    missing_in_a_stream: "got 1 of 2 parts",
    has_not_ended: "for ever",
    stuck: "is busy for ever",
    a_second_end: "has 2 ends",
    started_anew_for_nothing: "whose end does not say so",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
async def test_what_is_wrong_is_found(plant: Callable[[Kept], None], kept: Kept) -> None:
    await asyncio.to_thread(plant, kept)
    _, wrong = await asyncio.to_thread(kept.look)
    assert any(PLANTED[plant] in what for what in wrong), wrong


@pytest.mark.parametrize("plant", [lost, an_event_lost, has_not_ended], ids=lambda plant: plant.__name__)
async def test_what_is_lost_is_counted(plant: Callable[[Kept], None], kept: Kept) -> None:
    await asyncio.to_thread(plant, kept)
    counts, _ = await asyncio.to_thread(kept.look)
    assert counts.lost == 1


async def test_a_worker_that_was_taken_for_dead_may_come_too_late(kept: Kept) -> None:
    """The fence refuses it, and that is no double if others had ended its run."""
    kept.change("UPDATE runs SET error_type = 'worker_lost', status = 'error' WHERE run_id = 'one'")
    kept.rewrite(lambda entries: entries.insert(6, {**entries.pop(3), "what": "refused"}))
    counts, wrong = await asyncio.to_thread(kept.look)
    assert counts.doubles == 0, wrong
    assert counts.refused == 1


def test_who_was_fenced_off_does_nothing_more(tmp_path: Path) -> None:
    journal = FencedJournal(tmp_path)
    old = journal.enter("one", "t")
    journal.enter("two", "t", 2).write("new")
    for late in (lambda: old.write("late"), lambda: old.leave("done")):
        with pytest.raises(FencedOff):
            late()
    assert [(entry.run_id, entry.what, entry.detail) for entry in journal.entries()] == [
        ("one", "enter", ""),
        ("two", "enter", ""),
        ("two", "write", "new"),
        ("one", "refused", "write late"),
        ("one", "refused", "leave done"),
    ]
    with pytest.raises(FencedOff):
        replace(old, token=0).write()


def test_what_an_agent_does_is_written_down_also_without_descriptors(tmp_path: Path) -> None:
    program = """
import resource
hold = journal.enter("one", "t")
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
hold.leave("done")
journal.enter("two", "t").leave("done")
"""
    assert [(entry.what, entry.token) for entry in written_by(program, tmp_path)] == [
        ("enter", 1),
        ("leave", 1),
        ("enter", 2),
        ("leave", 2),
    ]


def test_all_threads_and_forks_that_enter_get_tokens_of_their_own(tmp_path: Path) -> None:
    program = """
import os
from concurrent.futures import ThreadPoolExecutor
journal.enter("first", "t")
begin = os.pipe(), os.pipe()
child = os.fork()
os.write(begin[bool(child)][1], b"x")
os.read(begin[not child][0], 1)
with ThreadPoolExecutor(2) as threads:
    list(threads.map(lambda number: journal.enter(str(number), "t"), range(1_000)))
if child:
    os.waitpid(child, 0)
"""
    entries = written_by(program, tmp_path)
    assert [entry.token for entry in entries] == [*range(1, 2_002)]
    assert len({entry.pid for entry in entries}) == 2


def test_a_thread_that_opens_the_journal_anew_changes_no_token_of_one_that_is_entering(tmp_path: Path) -> None:
    program = """
import os, time
from concurrent.futures import ThreadPoolExecutor
import fenced_journal

class Slow(fenced_journal._OpenedJournal):
    def __init__(self, path):
        super().__init__(path)
        opened.append(self)
        time.sleep(0.01 * len(opened))

opened = []
journal.enter("first", "t")
if not (child := os.fork()):
    fenced_journal._OpenedJournal = Slow
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: journal.enter(str(number), "t"), range(2_000)))
    os._exit(0)
os.waitpid(child, 0)
"""
    assert [entry.token for entry in written_by(program, tmp_path)] == [*range(1, 2_002)]


def written_by(program: str, folder: Path) -> list[Entry]:
    """What a separate program writes into the journal of a folder."""
    begin = f"import sys; sys.path[:] = {sys.path}\nfrom pathlib import Path\nfrom fenced_journal import FencedJournal"
    program = f"{begin}\njournal = FencedJournal(Path({str(folder)!r}))\n{program}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    return FencedJournal(folder).entries()


async def test_a_client_that_crashes_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(clients: FleetClients, balanced: Balanced, chance: random.Random) -> None:
        raise KeyError("run_id")

    for kind in ("wait", "stream", "join", "queue", "cancel"):
        monkeypatch.setattr(FleetClients, f"_{kind}", crash)
    async with FleetClients(["http://127.0.0.1:9"], pause=0.01) as clients:
        while len(clients.words.wrong) < 5:
            await asyncio.sleep(0)
        await clients.stop()
    assert any("a client that wanted to queue crashed: Traceback" in said for said in clients.words.wrong)
    assert all("KeyError: 'run_id'" in said for said in clients.words.wrong)
