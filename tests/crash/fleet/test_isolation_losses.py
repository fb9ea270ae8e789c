"""What agents do to their processes where workers isolate them: that one run ends, as what it was, and no other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import isolated_agents
import pytest
from fleet import SHORT_LEASE, Fleet
from fleet_check import Asked, Words
from fleet_clients import Follower
from left_processes import is_there

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured on Linux alone"),
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type OpenFleet = Callable[..., Any]

AGENTS = {
    "breaks": "breaks",
    "again": "breaks",
    "brief": "breaks",
    "deaf": "deaf",
    "starts": "starts",
    "blocks_behind": "blocks_behind",
}
"""The names of the agents, and the function of each."""
ENV = {
    "TRACKSIDE_WORKER_ISOLATION": "process",
    "TRACKSIDE_WORKER_MEMORY_LIMIT": "350MB",
    "TRACKSIDE_RUNS_STUCK_AFTER": "1s",
    "TRACKSIDE_LIMITS_AGAIN_MAX_ATTEMPTS": "2",
    "TRACKSIDE_LIMITS_BRIEF_TIMEOUT": "1s",
    **{f"TRACKSIDE_AGENTS_{name}".upper(): f"{isolated_agents.__file__}:{of}" for name, of in AGENTS.items()},
}


async def isolated(open_fleet: OpenFleet, **options: Any) -> Fleet:
    fleet: Fleet = await open_fleet(
        **{"servers": 1, "workers": 1, "concurrency": 2, "lease": SHORT_LEASE, "env": ENV, **options}
    )
    places = options.get("concurrency", 2) * options.get("workers", 1)
    await fleet.until(lambda: len(children(fleet)) == places, "all processes take runs")
    return fleet


def children(fleet: Fleet) -> list[int]:
    """The processes of all workers that take runs."""
    rows = fleet.ask("SELECT name FROM workers WHERE isolated_in IS NOT NULL")
    return [int(name.rpartition(":")[2]) for (name,) in rows]


async def started(fleet: Fleet, agent: str, words: Words, **input: Any) -> Asked:
    thread_id, token = str(uuid.uuid4()), uuid.uuid4().hex
    run = await fleet.clients[0].runs.create(
        thread_id,
        agent,
        input={"token": token, **input},
        if_not_exists="create",
        stream_mode=["custom"],
        stream_resumable=True,
    )
    asked = words.asked[run["run_id"]] = Asked(run["run_id"], thread_id, token)
    return asked


async def answered(fleet: Fleet, asked: Asked) -> Any:
    asked.answer = await fleet.clients[0].runs.join(asked.thread_id, asked.run_id)
    asked.is_answered = True
    return asked.answer


async def failure(fleet: Fleet, asked: Asked) -> tuple[str, str]:
    """The error type of a failed run, and its message."""
    asked.may_be_cancelled = True
    said = (await answered(fleet, asked))["__error__"]
    return said["error"], said["message"]


async def cancelled(fleet: Fleet, asked: Asked, action: Any = "interrupt") -> dict[str, Any]:
    """Cancel a run with this action; returns what the database says of its end."""
    asked.may_be_cancelled = True
    await fleet.clients[0].runs.cancel(asked.thread_id, asked.run_id, wait=True, action=action)
    return end_of(fleet, asked.run_id)


def end_of(fleet: Fleet, run_id: str) -> dict[str, Any]:
    """What the end of a run says in the log."""
    ((payload,),) = fleet.ask(
        f"SELECT payload FROM events WHERE run_id = '{run_id}' AND event_type IN ('run_failed', 'run_cancelled')"
    )
    says: dict[str, Any] = payload if isinstance(payload, dict) else json.loads(payload)
    return says


async def test_what_a_run_does_to_its_process_is_its_own_end_and_a_neighbour_streams_on(
    engine: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await isolated(open_fleet, engine=engine), Words()
    neighbour = await started(fleet, "talks", words, parts=100_000, pause=0.05)
    follower = Follower(neighbour.thread_id, neighbour.run_id)
    following = asyncio.create_task(follower.follow_at(fleet.clients[0]))
    ends = {}
    for how in ("segfault", "leave", "leave_as_if_all_were_well", "hog"):
        asked = await started(fleet, "breaks", words, how=how)
        ends[how] = await failure(fleet, asked)
        heard = len(follower.numbers)
        await fleet.until(lambda heard=heard: len(follower.numbers) > heard + 5, "the neighbour streams on")
    again = await started(fleet, "again", words, how="segfault")
    again.may_be_cancelled = True
    await answered(fleet, again)
    assert end_of(fleet, again.run_id)["error_type"] == "process_crashed"
    following_run = end_of(fleet, again.run_id)["retried_as"]
    await fleet.until(
        lambda: fleet.ask(f"SELECT 1 FROM runs WHERE run_id = '{following_run}' AND status = 'success'"), "it goes on"
    )
    assert (await cancelled(fleet, neighbour))["cancel_mode"] == "interrupt"
    await following

    assert ends == {
        "segfault": ("process_crashed", "the agent's process was ended by signal 11 (SIGSEGV)"),
        "leave": ("process_crashed", "the agent's process exited with code 3"),
        "leave_as_if_all_were_well": ("process_crashed", "the agent's process exited with code 0"),
        "hog": ("memory_limit", "the agent's process used more than its memory limit of 350 MiB"),
    }
    assert (follower.gaps, follower.numbers) == ([], [*range(len(follower.numbers))])
    counts = await fleet.check(words)
    assert counts.anew == 1


@pytest.mark.parametrize(("how", "action"), [("spin", "rollback"), ("hold", "interrupt")])
async def test_a_run_that_blocks_its_process_is_cancelled_all_the_same(
    how: str, action: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1), Words()
    asked = await started(fleet, "breaks", words, how=how)
    await fleet.until_entered(asked.run_id)
    says = await cancelled(fleet, asked, action)
    assert says["cancel_mode"] == action
    assert says["reason"].startswith("the agent did not stop, and its process was ended")
    await fleet.check(words)


async def test_a_run_that_blocks_its_process_times_out_all_the_same(open_fleet: OpenFleet) -> None:
    fleet, words = await isolated(open_fleet, engine="nats", concurrency=1), Words()
    asked = await started(fleet, "brief", words, how="hold")
    error, message = await failure(fleet, asked)
    row = await fleet.run_row(asked.run_id)
    assert row is not None
    assert (row["status"], row["error_type"], error) == ("timeout", "TimeoutError", "TimeoutError")
    assert message == "the run took longer than its timeout of 1 s, and did not stop then; its process was ended"
    await fleet.check(words)


async def test_a_run_that_ended_in_its_time_keeps_its_process_while_its_end_waits_for_the_database(
    open_fleet: OpenFleet,
) -> None:
    env = {**ENV, "TRACKSIDE_LIMITS_TALKS_TIMEOUT": "6s"}
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1, env=env), Words()
    with closing(fleet.postgres.connect(fleet.database.rpartition("/")[2].partition("?")[0])) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE thread_states IN SHARE MODE")  # what a run comes to, and nothing before that
        asked = await started(fleet, "talks", words, parts=1)
        entry = await fleet.until_entered(asked.run_id)
        passed = f"SELECT now() > started_at::timestamptz + interval '9 s' FROM runs WHERE run_id = '{asked.run_id}'"
        await fleet.until(lambda: fleet.ask(passed)[0][0], "it would have been ended by now")
        other.execute("COMMIT")
    assert (await answered(fleet, asked))["token"] == asked.token
    assert entry.pid in children(fleet)
    await fleet.check(words)


async def test_a_run_that_was_lost_while_its_machine_stood_still_does_not_keep_its_place(open_fleet: OpenFleet) -> None:
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1), Words()
    asked = await started(fleet, "again", words, how="spin")
    entry = await fleet.until_entered(asked.run_id)
    fleet.frozen.add(entry.pid)
    os.kill(entry.pid, signal.SIGSTOP)
    fleet.workers[0].stop()
    lost = f"SELECT 1 FROM runs WHERE run_id = '{asked.run_id}' AND status = 'error'"
    await fleet.until(lambda: fleet.ask(lost), "it is lost")
    fleet.workers[0].resume()
    os.kill(entry.pid, signal.SIGCONT)
    following = end_of(fleet, asked.run_id)["retried_as"]
    await fleet.until(
        lambda: fleet.ask(f"SELECT 1 FROM runs WHERE run_id = '{following}' AND status = 'success'"), "it goes on"
    )
    assert not is_there(entry.pid)
    asked.may_be_cancelled = True
    await fleet.check(words)


async def test_what_a_run_leaves_in_its_event_loop_does_not_keep_its_place(open_fleet: OpenFleet) -> None:
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1), Words()
    asked = await started(fleet, "blocks_behind", words)
    await answered(fleet, asked)
    fleet.open("over")
    entry = await fleet.until_entered(asked.run_id)
    await fleet.until(lambda: not is_there(entry.pid), "its process is ended")
    assert (await answered(fleet, following := await started(fleet, "talks", words)))["token"] == following.token
    assert "something blocked its event loop" in fleet.workers[0].log
    await fleet.check(words)


async def test_a_process_that_has_read_a_longer_timeout_gives_its_runs_that(open_fleet: OpenFleet) -> None:
    limit = '\n[limits.talks]\ntimeout = "{}"\n'
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1, settings=limit.format("1s")), Words()
    (first,) = children(fleet)
    settings = fleet.folder / "trackside.toml"
    settings.write_text(settings.read_text("utf-8").replace(limit.format("1s"), limit.format("1h")), "utf-8")
    os.kill(first, signal.SIGKILL)
    await fleet.until(lambda: children(fleet) not in ([], [first]), "its place has a new process")
    asked = await started(fleet, "talks", words, parts=1, gate="go")
    await fleet.until_entered(asked.run_id)
    passed = f"SELECT now() > started_at::timestamptz + interval '5 s' FROM runs WHERE run_id = '{asked.run_id}'"
    await fleet.until(lambda: fleet.ask(passed)[0][0], "it would have been ended by now")
    fleet.open("go")
    assert (await answered(fleet, asked))["token"] == asked.token
    await fleet.check(words)


async def test_an_agent_that_heeds_no_cancel_loses_its_process(open_fleet: OpenFleet) -> None:
    fleet, words = await isolated(open_fleet, engine="postgres", concurrency=1), Words()
    asked = await started(fleet, "deaf", words)
    entry = await fleet.until_entered(asked.run_id)
    assert (await cancelled(fleet, asked))["cancel_mode"] == "interrupt"
    await fleet.until(lambda: entry.pid not in children(fleet) and children(fleet), "its place has a new process")
    await fleet.check(words)


async def test_a_process_that_is_killed_takes_one_run_with_it_and_what_that_has_started(open_fleet: OpenFleet) -> None:
    fleet, words = await isolated(open_fleet, engine="postgres"), Words()
    neighbour = await started(fleet, "talks", words, parts=3, gate="go")
    asked = await started(fleet, "talks", words, parts=3, gate="go")
    await fleet.until_entered(neighbour.run_id)
    os.kill((await fleet.until_entered(asked.run_id)).pid, signal.SIGKILL)
    assert (await failure(fleet, asked))[0] == "worker_lost"
    fleet.open("go")
    assert (await answered(fleet, neighbour))["token"] == neighbour.token
    await failure(fleet, await started(fleet, "starts", words))
    grandchild = int((fleet.folder / "started").read_text("ascii"))
    await fleet.until(lambda: not is_there(grandchild), "what it had started is gone, too")
    await fleet.check(words)


async def test_processes_end_with_a_supervisor_that_is_killed_and_their_runs_go_on_elsewhere(
    open_fleet: OpenFleet,
) -> None:
    fleet, words = await isolated(open_fleet, engine="nats", concurrency=1, workers=2), Words()
    asked = await started(fleet, "tries", words, parts=3, gate="never")
    lost = await started(fleet, "breaks", words, how="hold")
    pids = [(await fleet.until_entered(one.run_id)).pid for one in (asked, lost)]
    assert len({*pids}) == 2
    await asyncio.gather(*[worker.kill() for worker in fleet.workers])
    await fleet.until(lambda: not any(map(is_there, pids)), "its processes are gone")
    await fleet.workers[1].start()
    assert (await failure(fleet, lost))[0] == "worker_lost"
    following = end_of(fleet, asked.run_id)["retried_as"]
    await fleet.until(
        lambda: fleet.ask(f"SELECT 1 FROM runs WHERE run_id = '{following}' AND status = 'success'"), "it goes on"
    )
    asked.may_be_cancelled = True
    await fleet.check(words)
