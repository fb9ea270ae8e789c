"""`trackside subscriptions`, `replay` and `parked`: how far observers fed from the log are, and how to move them."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.harness import NullObserver
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

ERROR = "the address\nis gone"


@pytest.fixture
def subscribed(here: Trackside, tmp_path: Path) -> Trackside:
    """A run of five events; `audit` has read it, `mail` has parked 1 and 3 and goes on failing, `hook` is paused."""

    async def prepare(store: Store) -> None:
        await store.append(make_run())
        subs = store.subscriptions
        await subs.open("audit", start="now", on_failure="block")
        await subs.open("hook", types=["run_failed", "run_completed"], agent="chat", start=3)
        await subs.pause("hook")
        await subs.open("mail", start="beginning")
        async with await subs.acquire("mail") as consumer:
            await consumer.read()
            await consumer.park(1, "no such user", attempts=5)
            await consumer.acknowledge(2)
            await consumer.park(3, ERROR)
            await consumer.note_failure(ERROR, attempts=2)

    in_store(tmp_path, prepare)
    return here


def in_store[T](folder: Path, do: Callable[[Store], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Store.open(f"sqlite:///{folder / 'trackside.db'}") as store:
            return await do(store)

    return asyncio.run(main())


def standing(folder: Path, name: str) -> Any:
    return in_store(folder, lambda store: store.subscriptions.get(name))


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_how_all_stand(subscribed: Trackside) -> None:
    title, *rows = said(subscribed("subscriptions")).splitlines()

    assert title.split() == ["NAME", "STATE", "CURSOR", "BEHIND", "SINCE", "PARKED", "FAILED", "LAST", "ERROR"]
    assert [row.split()[:5] for row in rows] == [
        ["audit", "✓", "active", "5", "0"],
        ["hook", "‖", "paused", "3", "2"],
        ["mail", "✗", "failing", "3", "2"],
    ]
    assert rows[2].endswith("2×  the address is gone")

    audit, hook, mail = objects(subscribed("subscriptions", "--json"))
    assert (audit["name"], audit["cursor"], audit["oldest_at"], audit["on_failure"]) == ("audit", 5, None, "block")
    assert hook["filter"] == {
        "types": ["run_completed", "run_failed"],
        "run_id": None,
        "thread_id": None,
        "agent": "chat",
    }
    assert (mail["parked"], mail["failures"], mail["last_error"], mail["consumer"]) == (2, 2, ERROR, None)


def test_one_in_full(subscribed: Trackside) -> None:
    shown = said(subscribed("subscriptions", "hook"))
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (facts["state"], facts["wants"]) == ("‖ paused", "types run_completed, run_failed, agent chat")
    assert facts["behind"].startswith("2 positions, since ")
    assert "parked" not in facts
    failing = said(subscribed("subscriptions", "mail"))
    assert "wants         all events\n" in failing
    assert "2 times in a row" in failing
    assert objects(subscribed("subscriptions", "mail", "--json")) == objects(subscribed("subscriptions", "--json"))[2:]


def test_pause_resume_and_delete(subscribed: Trackside, tmp_path: Path) -> None:
    assert said(subscribed("subscriptions", "mail", "pause")) == "mail is paused at position 3.\n"
    assert standing(tmp_path, "mail").state == "paused"
    assert said(subscribed("subscriptions", "mail", "resume")) == "mail goes on after position 3.\n"
    assert objects(subscribed("subscriptions", "mail", "resume", "--json"))[0]["state"] == "active"
    assert said(subscribed("subscriptions", "mail", "delete", "--yes")) == "mail is deleted; it was at position 3.\n"
    assert [found["name"] for found in objects(subscribed("subscriptions", "--json"))] == ["audit", "hook"]


def test_who_only_asks_what_would_be_done_changes_nothing(subscribed: Trackside, tmp_path: Path) -> None:
    before = said(subscribed("subscriptions", "--json"))
    assert [
        said(subscribed(*command, "--dry-run"))
        for command in (
            ("subscriptions", "mail", "pause"),
            ("subscriptions", "hook", "resume"),
            ("parked", "mail", "retry"),
            ("parked", "mail", "retry", "--position", "3"),
            ("parked", "mail", "drop"),
        )
    ] == [
        "mail would be paused at position 3.\n",
        "hook would go on after position 3.\n",
        "mail would be given 2 events again.\n",
        "mail would be given 1 event again.\n",
        "mail would give up 2 events.\n",
    ]
    assert said(subscribed("subscriptions", "--json")) == before
    assert [found["state"] for found in objects(subscribed("parked", "mail", "--json"))] == ["parked", "parked"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("subscriptions --yes", "--yes: there is nothing to confirm; it goes with `delete`"),
        ("subscriptions mail resume --yes", "--yes: there is nothing to confirm; it goes with `delete`"),
        ("subscriptions --dry-run", "--dry-run: nothing would be done; it goes with `pause`, `resume` and `delete`"),
        (
            "subscriptions mail --dry-run",
            "--dry-run: nothing would be done; it goes with `pause`, `resume` and `delete`",
        ),
        ("parked mail --yes", "--yes: there is nothing to confirm; it goes with `drop`"),
        ("parked mail retry --yes", "--yes: there is nothing to confirm; it goes with `drop`"),
        ("parked mail --dry-run", "--dry-run: nothing would be done; it goes with `retry` and `drop`"),
    ],
)
def test_options_of_what_is_done_are_refused_where_nothing_is(subscribed: Trackside, command: str, says: str) -> None:
    done = subscribed(*command.split())

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {says}.\n")


async def test_who_deletes_what_is_fed_is_told_that_it_stays_unfed(subscribed: Trackside, tmp_path: Path) -> None:
    asked = [("--dry-run",), ("--yes",)]
    async with Store.open(f"sqlite:///{tmp_path / 'trackside.db'}") as store:
        observer = DurableObserver(name="audit", observer=NullObserver())
        async with Dispatcher(store.subscriptions, [observer], consumer="host/7"):
            while (await store.subscriptions.get("audit")).consumer is None:
                await asyncio.sleep(0.01)
            told = [await asyncio.to_thread(subscribed, "subscriptions", "audit", "delete", *how) for how in asked]

    unfed = "; host/7, which feeds it, delivers nothing more to it until it is restarted.\n"
    assert [said(one).endswith(unfed) for one in told] == [True, True]


def test_replay_begins_with_the_position_that_was_asked_for(subscribed: Trackside, tmp_path: Path) -> None:
    assert (
        said(subscribed("replay", "audit", "--from", "5", "--yes"))
        == "audit goes on with position 5, 1 position from the end.\n"
    )
    assert standing(tmp_path, "audit").cursor == 4
    assert objects(subscribed("replay", "audit", "--from", "1", "--yes", "--json"))[0]["behind"] == 5

    async def next_position(store: Store) -> int:
        async with await store.subscriptions.acquire("audit") as consumer:
            return (await consumer.read()).events[0].position

    assert in_store(tmp_path, next_position) == 1


def test_parked_events_are_shown_retried_and_dropped(subscribed: Trackside, tmp_path: Path) -> None:
    title, first, second = said(subscribed("parked", "mail")).splitlines()
    assert title.split() == ["POSITION", "EVENT", "RUN", "STATE", "TRIES", "PARKED", "ERROR"]
    assert first.split()[:3] == ["1", "▸", "started"]
    assert first.endswith("no such user")
    assert second.endswith("the address is gone")
    one, other = objects(subscribed("parked", "mail", "--json"))
    assert (one["position"], one["event_type"], one["attempts"], one["error"]) == (1, "run_started", 5, "no such user")
    assert (other["position"], other["error"]) == (3, ERROR)
    assert len(objects(subscribed("parked", "mail", "--json", "--limit", "1"))) == 1

    assert said(subscribed("parked", "mail", "retry", "--position", "3")) == "1 event will be delivered again.\n"
    assert [event["state"] for event in objects(subscribed("parked", "mail", "--json"))] == ["parked", "retry"]
    assert said(subscribed("parked", "mail", "drop", "-p", "1", "--yes")) == "1 event dropped.\n"
    assert objects(subscribed("parked", "mail", "drop", "--json", "--yes")) == [{"subscription": "mail", "events": 1}]
    assert said(subscribed("parked", "mail")) == "mail has no parked events.\n"
    assert standing(tmp_path, "mail").parked == 0


def test_what_is_over_is_no_last_error(subscribed: Trackside) -> None:
    facts = said(subscribed("subscriptions", "mail"))
    assert "last error    the address is gone (" in facts

    subscribed("replay", "mail", "--from", "4", "--yes")
    assert "the address is gone" in said(subscribed("subscriptions", "mail"))  # two events are still parked
    subscribed("parked", "mail", "drop", "--yes")

    assert "last error" not in said(subscribed("subscriptions", "mail"))
    assert "address" not in said(subscribed("subscriptions"))


def test_no_subscriptions_at_all(subscribed: Trackside) -> None:
    for name in ("audit", "hook", "mail"):
        subscribed("subscriptions", name, "delete", "--yes")

    assert said(subscribed("subscriptions")) == "There are no subscriptions.\n"
    assert objects(subscribed("subscriptions", "--json")) == []


@pytest.mark.parametrize("name", ["-x", "it's mail"])
def test_who_names_what_is_not_parked_is_shown_a_command_that_lists_what_is(
    here: Trackside, tmp_path: Path, name: str
) -> None:
    async def prepare(store: Store) -> None:
        await store.subscriptions.open(name)

    in_store(tmp_path, prepare)
    there = ("-d", "sqlite:///trackside.db")
    refused = here("parked", *there, "-p", "7", "--", name, "retry")
    command = refused.stderr.partition("`")[2].rpartition("`")[0]

    assert said(here(*shlex.split(command)[1:])) == f"{name} has no parked events.\n"


@pytest.mark.parametrize("action", ["retry", "drop"])
def test_a_limit_is_not_passed_over(subscribed: Trackside, tmp_path: Path, action: str) -> None:
    done = subscribed("parked", "mail", action, "-n", "1")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --limit: it says how many to show; --position chooses what to {action}.\n"
    assert standing(tmp_path, "mail").parked == 2


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("subscriptions nobody", "There is no subscription 'nobody'"),
        ("subscriptions nobody delete", "There is no subscription 'nobody'"),
        ("subscriptions mail explode", "'explode' is not one of"),
        ("replay nobody --from 1", "There is no subscription 'nobody'"),
        ("replay mail", "Missing option '--from'"),
        ("replay mail --from 0", "'0' is not a whole number from 1 up"),
        ("replay mail --from 7", "error: --from: the last position in the log is 5.\n"),
        ("parked nobody", "There is no subscription 'nobody'"),
        ("parked mail retry -p 2", "no event parked at position 2"),
        ("parked mail retry -p 1 -p 77", "no event parked at position 77"),
        ("parked mail drop -p 1 -p 77", "no event parked at position 77"),
        ("parked mail drop -p 1 -p 77 --yes", "no event parked at position 77"),
        ("parked mail -p 2", "--position: it says which events to retry or drop"),
        ("parked mail --limit 0", "'0' is not a whole number from 1 up"),
    ],
)
def test_what_cannot_be(subscribed: Trackside, command: str, complaint: str) -> None:
    done = subscribed(*command.split())

    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert [one["state"] for one in objects(subscribed("parked", "mail", "--json"))] == ["parked", "parked"]


@pytest.mark.parametrize(
    "command",
    [
        "replay mail --from 7",
        "replay mail --from 6",
        "replay nobody --from 1",
        "subscriptions nobody pause",
        "parked mail retry -p 77",
        "parked mail drop -p 1 -p 77",
        "parked mail drop -p 1",
    ],
)
def test_what_would_be_done_is_foretold_only_where_it_is_done(subscribed: Trackside, command: str) -> None:
    foretold = subscribed(*command.split(), "--dry-run")
    done = subscribed(*command.split(), *(() if "pause" in command or "retry" in command else ("--yes",)))

    assert (foretold.returncode, foretold.stderr) == (done.returncode, done.stderr)
    assert bool(foretold.stdout) is bool(done.stdout)


def test_it_is_said_that_nothing_would_be_moved(subscribed: Trackside) -> None:
    would = said(subscribed("replay", "audit", "--from", "6", "--dry-run"))

    assert would == "audit would go on with position 6, as it does anyway.\n"


def test_a_database_that_is_not_there_is_not_made(here: Trackside, tmp_path: Path) -> None:
    for command in (
        ["subscriptions"],
        ["subscriptions", "mail", "pause"],
        ["replay", "mail", "--from", "1"],
        ["parked", "m"],
    ):
        done = here(*command)
        assert done.returncode == 2
        assert "nothing recorded" in done.stderr
    assert not (tmp_path / "trackside.db").exists()
