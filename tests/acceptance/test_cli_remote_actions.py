"""What the commands do against a running server, and against its database: it is done there, and seen from here."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from served_records import Served, objects, serving
from trackside_server import PATIENCE

from trackside.app.cli.actions import remote_running
from trackside.app.cli.records.lookup import find_paused_run
from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import RunStatus
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, forkery: Forkery) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), forkery) as served:
        yield served


@pytest.fixture(params=["database", "server"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_run_goes_on_in_the_server_and_is_watched_here(served: Served, here: Trackside) -> None:
    at = served.at("server", "run")

    watched = here("run", "echo", "hello", "--metadata", "customer=acme", *at)
    *events, last = objects(here("run", "echo", '{"a": 1}', "--json", *at))
    failed = here("run", "fail", "hello", *at)
    asked = here("run", "ask", "hello", *at)

    assert watched.returncode == 0, watched.stderr
    for said in ("▸ started      echo", '{"step": 2', '{"answer": "hello"}', "1,600 tokens", served.url):
        assert said in watched.stdout
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert last["result"]["output"] == {"answer": {"a": 1}}
    assert (failed.returncode, "LookupError: no kettles" in failed.stdout) == (1, True)
    assert asked.returncode == 75
    command = asked.stdout.splitlines()[-1].strip()
    assert command.startswith("trackside resume ")
    assert command.endswith(f"--url {served.url}")
    thread = command.split()[2]
    answered = objects(here("resume", thread, "7", "--json", *at))
    assert answered[-1]["result"]["output"] == {"said": 7}
    assert here("resume", thread, "7", *at).returncode == 2  # it waits no more
    assert "does not wait for an answer" in here("resume", thread.upper(), "7", *at).stderr  # which is whole
    (run,) = objects(here("runs", "--text", "acme", "--json", *at))
    assert run["metadata"] == {"customer": "acme"}
    again = objects(here("retry", run["run_id"], "--json", *at))
    assert again[-1]["result"]["output"] == {"answer": "hello"}
    assert objects(here("runs", run["run_id"], "--json", *at))[0]["retries"] == [again[-1]["result"]["run_id"]]


def test_who_answers_when_somebody_has_just_answered_is_told_so(
    served: Served, here: Trackside, piped: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = served.at("server", "run")
    thread = objects(here("run", "sign", "x", "--json", *at), 75)[-1]["result"]["thread_id"]
    first: list[dict[str, Any]] = []

    async def find(*args: Any) -> Any:
        found = await find_paused_run(*args)
        faster = await asyncio.to_thread(piped, "resume", thread, "yes", "--json", *at)
        assert faster.stdout is not None
        first.append(json.loads(await asyncio.to_thread(faster.stdout.readline)))
        return found

    with monkeypatch.context() as changes:
        changes.setattr(remote_running, "find_paused_run", find)
        late = here("resume", thread, "no", *at)
    assert (late.returncode, late.stdout, late.stderr.count("\n")) == (2, "", 1)
    assert late.stderr.startswith(f"error: Thread {thread!r} does not wait for an answer, it is busy; ")
    assert here("cancel", first[0]["run_id"], "--wait", *at).returncode == 0


def test_an_answer_is_none_to_what_is_asked_after_somebody_has_answered(
    served: Served, here: Trackside, piped: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = served.at("server", "run")
    thread = objects(here("run", "refund", "x", "--json", *at), 75)[-1]["result"]["thread_id"]

    async def find(*args: Any) -> Any:
        found = await find_paused_run(*args)
        faster = await asyncio.to_thread(piped, "resume", thread, "yes", "--json", *at)
        assert await asyncio.to_thread(faster.wait) == 75
        return found

    with monkeypatch.context() as changes:
        changes.setattr(remote_running, "find_paused_run", find)
        late = here("resume", thread, "yes", "--json", *at)
    assert late.returncode != 0
    assert "UnknownQuestionError" in late.stdout + late.stderr
    assert "refund order 8?" in here("threads", thread, *at).stdout
    read = objects(here("resume", thread, "no", "--json", *at))
    assert read[-1]["result"]["output"] == {"7": "yes", "8": "no"}


def test_what_goes_on_past_a_stop_stops_where_it_was_asked_to(served: Served, here: Trackside, place: str) -> None:
    thread, at = new_id(), served.at(place, "run")
    body = {
        "assistant_id": "walk",
        "input": {"steps": []},
        "interrupt_before": ["pay", "ship"],
        "if_not_exists": "create",
    }
    key = {"x-api-key": served.keys["run"]}
    httpx.post(f"{served.url}/threads/{thread}/runs/wait", json=body, headers=key, timeout=PATIENCE).raise_for_status()
    shown = here("threads", thread, *at).stdout
    if place == "database":
        at += ["--agent", f"{Path(served.database.removeprefix('sqlite:///')).parent / 'agents.py'}:walk"]
    first = objects(here("resume", thread, "true", "--json", *at), 75)
    second = objects(here("resume", thread, "true", "--json", *at))

    assert "It has stopped without a question; this lets it go on:" in shown
    assert f"trackside resume {thread} true" in shown
    ends = [line["payload"]["interrupts"] for line in first if line.get("event_type") == "run_completed"]
    assert [[stop["next"] for stop in stops] for stops in ends] == [[["ship"]]]
    assert second[-1]["result"]["output"] == {"steps": ["read", "pay", "ship"]}


def test_a_run_is_cancelled_and_deleted_wherever_that_is_said(
    served: Served, here: Trackside, piped: Callable[..., subprocess.Popen[str]], place: str
) -> None:
    at = served.at(place)
    watching = piped("run", "sleep", "x", "--json", *served.at("server"))
    assert watching.stdout is not None
    run = json.loads(watching.stdout.readline())

    refused = here("delete", "run", run["run_id"], "--yes", *at)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"cancel it first: trackside cancel {run['run_id']} --wait" in refused.stderr
    stopped = here("cancel", run["run_id"], "run-1", "--wait", *at)
    assert stopped.stdout.splitlines() == [
        f"Run {run['run_id']} has ended: cancelled.",
        "Run run-1 had ended already: success.",
    ]
    assert watching.wait(60) == 130
    assert objects(here("cancel", run["run_id"], "--json", *at))[0]["had_ended"] is True

    asked = here("delete", "run", run["run_id"], *at)  # nobody sits there who could be asked
    assert (asked.returncode, asked.stdout) == (2, "")
    assert f"run {run['run_id']} of sleep, cancelled" in asked.stderr
    assert f"Deleted run {run['run_id']}." in here("delete", "run", run["run_id"], "-y", *at).stdout
    assert "was deleted already" in here("delete", "run", run["run_id"], "-y", *at).stdout
    (gone,) = objects(here("delete", "thread", run["thread_id"], "-y", "--json", *at))
    assert gone == {"thread_id": run["thread_id"], "deleted": True, "was_deleted_before": False}
    for where in ("server", "database"):
        (shown,) = objects(here("runs", run["run_id"], "--json", *served.at(where)))
        assert shown["removed_at"] is not None
        assert shown["events"]


def test_of_a_run_that_goes_on_as_another_attempt_that_is_cancelled_wherever_that_is_said(
    served: Served, here: Trackside, piped: Callable[..., subprocess.Popen[str]], place: str
) -> None:
    at = served.at(place)
    watching = piped("run", "sleep", "x", "--json", *served.at("server"))
    assert watching.stdout is not None
    last = json.loads(watching.stdout.readline())["run_id"]
    first, second = f"{place}-first", f"{place}-second"
    asyncio.run(keep_attempts(served.database, [first, second, last]))

    stopped = here("cancel", first, "--wait", *at)
    assert stopped.stdout == f"Run {first} went on as run {last}. Run {last} has ended: cancelled.\n"
    assert watching.wait(60) == 130
    (said,) = objects(here("cancel", second, "--json", *at))
    assert said == {"run_id": last, "status": "cancelled", "had_ended": True, "instead_of": second}


async def keep_attempts(database: str, run_ids: list[str]) -> None:
    """Have runs in the log that ended as their workers left, each going on as the next one."""
    async with Store.open(database) as store:
        for run_id, again in itertools.pairwise(run_ids):
            events = make_run(run_id, thread_id=f"of {run_id}", status=RunStatus.error)
            ends = [replace(one, payload={**one.payload, "retried_as": again}) for one in events if is_end(one)]
            await store.append([*itertools.takewhile(lambda one: not is_end(one), events), *ends])


def is_end(event: RunLifecycleEvent) -> bool:
    return is_terminal(event.event_type)


def test_subscriptions_are_seen_to_wherever_that_is_said(served: Served, here: Trackside, place: str) -> None:
    at = served.at(place)

    assert "goes on after position 3" in here("subscriptions", "hook", "resume", *at).stdout
    assert "is paused" in here("subscriptions", "hook", "pause", *at).stdout
    assert "goes on with position 2" in here("replay", "hook", "--from", "2", "--yes", *at).stdout
    assert "goes on with position 4" in here("replay", "hook", "--from", "4", "--yes", *at).stdout
    position = objects(here("parked", "mail", "--json", *at))[0]["position"]
    (retried,) = objects(here("parked", "mail", "retry", "-p", str(position), "--json", *at))
    assert retried == {"subscription": "mail", "events": 1}
    assert objects(here("parked", "mail", "-n", "1", "--json", *at))[0]["state"] == "retry"


async def test_what_is_parked_while_somebody_is_asked_is_not_given_up(
    served: Served, terminal: Any, place: str
) -> None:
    name = f"post-{place}"
    async with Store.open(served.database) as store:
        await store.subscriptions.open(name, start="beginning")
        async with await store.subscriptions.acquire(name) as consumer:
            await consumer.read()
            await consumer.park(1, "no such user")
            await consumer.park(3, "no such user")
            shown = terminal("parked", name, "drop", *served.at(place), columns=120)
            await asyncio.to_thread(shown.wait_for, f"Give up 2 events that {name} has parked, for good? [y/N]")
            await consumer.park(2, "the receiver is away")
        shown.press(b"y\r")
        assert await asyncio.to_thread(shown.wait) == 0
        left = [one.stored.position for one in await store.subscriptions.parked(name)]
        await store.subscriptions.delete(name)

    assert "2 events dropped." in shown.text
    assert left == [2]
