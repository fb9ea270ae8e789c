"""`trackside replay --wait` shows how far it is, and ends when all is delivered, some is parked, or nobody delivers;
`trackside deliver --until-idle` ends when all is delivered.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trackside.app.cli import places
from trackside.app.cli.actions import catching_up
from trackside.app.cli.actions.catching_up import CaughtUp
from trackside.app.cli.records.protocol import Home, Records
from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DrainReport
from trackside.app.storage.errors import ConnectionLostError
from trackside.app.storage.subscriptions import Subscription

type Run = Callable[..., subprocess.CompletedProcess[str]]

WATCH = """
import os
from trackside.app.delivery import Delivery, DeliveryError

async def echo(input):
    return input

class Mail:
    delivery = Delivery.durable
    async def on_event(self, event):
        if os.path.exists("down"):
            raise DeliveryError(receiver="the endpoint", what="it", why="400", retryable=False)
        with open("mail.txt", "a") as file:
            file.write(event.event_type + "\\n")
    async def aclose(self):
        pass
"""
SETTINGS = """
[agents]
echo = "watch.py:echo"
[[observers]]
type = "watch.py:Mail"
name = "mail"
"""


@pytest.fixture
def delivered(tmp_path: Path, here: Run) -> Run:
    """A run of five events, all of which `mail` has received."""
    (tmp_path / "watch.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "trackside.toml").write_text(SETTINGS, encoding="utf-8")
    assert here("run", "echo", "hi").returncode == 0
    assert json.loads(here("subscriptions", "mail", "--json").stdout)["behind"] == 0
    return here


def lines(folder: Path) -> int:
    return len((folder / "mail.txt").read_text(encoding="utf-8").splitlines())


def test_a_bar_says_how_far_it_is_until_somebody_has_delivered_all(
    delivered: Run, terminal: Any, piped: Any, tmp_path: Path
) -> None:
    shown = terminal("replay", "mail", "--from", "1", "--yes", "--wait", columns=120)
    shown.wait_for("0 positions")  # nobody delivers yet
    assert "Replaying mail" in shown.text
    assert "0%" in shown.text
    deliver = piped("deliver")
    assert shown.wait() == 0
    assert shown.lines == ["mail has got everything up to position 5."]
    assert lines(tmp_path) == 10
    deliver.send_signal(signal.SIGTERM)
    assert deliver.wait(60) == 0


def test_what_is_not_taken_is_counted_and_where_to_look_is_said(delivered: Run, piped: Any, tmp_path: Path) -> None:
    (tmp_path / "down").touch()
    deliver = piped("deliver", "--json")
    assert json.loads(deliver.stdout.readline())["what"] == "goes_on"
    # One after the other: the second removes from the parked events what it delivers again.
    done = delivered("replay", "mail", "--from", "4", "--yes", "--wait")
    assert (done.returncode, done.stderr) == (1, "")
    said = "mail has got everything up to position 5, but did not take 2 events, parked now; see `trackside parked mail`.\n"
    assert done.stdout == said
    done = delivered("replay", "mail", "--from", "4", "--yes", "--wait", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert (told["name"], told["cursor"], told["not_taken"]) == ("mail", 5, 2)


def test_who_delivers_may_be_through_before_it_is_looked_for(
    delivered: Run, piped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not taken counts from the position asked for, not from where the subscription is found."""

    async def look_late(records: Records, name: str, *args: Any) -> CaughtUp:
        while (await records.subscription(name)).behind:
            await asyncio.sleep(0.01)
        return await catching_up.catch_up(records, name, *args)

    monkeypatch.setattr("trackside.app.cli.actions.subscriptions.catch_up", look_late)
    (tmp_path / "down").touch()
    deliver = piped("deliver", "--json")
    assert json.loads(deliver.stdout.readline())["what"] == "goes_on"
    done = delivered("replay", "mail", "--from", "4", "--yes", "--wait")
    assert done.returncode == 1
    assert "but did not take 2 events, parked now" in done.stdout


def test_it_does_not_wait_for_ever(delivered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "PATIENCE", 0.0)
    done = delivered("replay", "mail", "--from", "1", "--yes", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: mail has stopped at position 0: nobody delivers to it; run this where its observer is:"
        " `trackside deliver mail`. [stands-still]\n"
    )
    delivered("subscriptions", "mail", "pause")
    done = delivered("replay", "mail", "--from", "1", "--yes", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: mail has stopped at position 0: it is paused; to resume it: `trackside subscriptions mail resume`."
        " [stands-still]\n"
    )
    done = delivered("replay", "mail", "--from", "6", "--wait", "--yes")
    assert (done.returncode, done.stdout) == (0, "mail has got everything up to position 5.\n"), "there is nothing left"


class Away:
    """Records in which a subscription stands at each of these in turn; a number of seconds is how long they are away."""

    def __init__(self, *stands: Subscription | float) -> None:
        self.home = Home("runs.db")
        self.time = 0.0
        self._stands = iter(stands)

    async def subscription(self, name: str) -> Subscription:
        if not isinstance(stands := next(self._stands), float):
            return stands
        self.time += stands
        raise ConnectionLostError(database="runs.db", why="it restarts")


async def test_records_that_are_away_are_waited_for_and_who_delivers_has_time_after_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_PAUSE", 0.0)
    monkeypatch.setattr(catching_up, "LOOK_SECONDS", 0.0)
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        await store.subscriptions.open("mail")
        end = replace(await store.subscriptions.get("mail"), cursor=5)
    start = replace(end, cursor=0, behind=5)
    records: Any = Away(start, catching_up.PATIENCE, catching_up.PATIENCE, start, start, end)

    with catching_up.waiting("mail") as progress:
        found = await catching_up.catch_up(records, "mail", 0, progress, clock=lambda: records.time)

    assert found == CaughtUp(end, 0)
    assert capsys.readouterr().err.count("waiting: The connection to runs.db was lost") == 1


def test_an_event_that_blocks_is_said(
    delivered: Run, piped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackside.toml").write_text(SETTINGS + 'on_failure = "block"\n', encoding="utf-8")
    (tmp_path / "down").touch()
    deliver = piped("deliver", "--json")
    assert json.loads(deliver.stdout.readline())["what"] == "goes_on"
    delivered("replay", "mail", "--from", "1", "--yes")
    while not json.loads(delivered("subscriptions", "mail", "--json").stdout)["failures"]:
        assert deliver.poll() is None

    async def look_late(records: Records, name: str, *args: Any) -> CaughtUp:
        while not (await records.subscription(name)).failures:  # it was tried once more
            assert deliver.poll() is None
            await asyncio.sleep(0.01)
        return await catching_up.catch_up(records, name, *args)

    monkeypatch.setattr("trackside.app.cli.actions.subscriptions.catch_up", look_late)
    monkeypatch.setattr(catching_up, "PATIENCE", 0.0)
    done = delivered("replay", "mail", "--from", "1", "--yes", "--wait")
    assert done.returncode == 1
    assert "mail has stopped at position 0: its next event fails and holds up all later ones (" in done.stderr
    assert done.stderr.endswith("details: `trackside subscriptions mail`. [stands-still]\n")


def test_ctrl_c_leaves_it_to_whoever_delivers(delivered: Run, terminal: Any) -> None:
    shown = terminal("replay", "mail", "--from", "1", "--yes", "--wait", columns=120)
    shown.wait_for("0 positions")
    shown.press(b"\x03")
    assert shown.wait() == 130
    assert shown.lines[-1].removeprefix("^C") == (
        "Broken off: mail was 0 positions further; it goes on without this command."
    )


def test_who_delivers_until_all_is_delivered_waits_for_a_database_that_is_away(
    delivered: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, failures = Dispatcher.drain, [ConnectionLostError(database="trackside.db", why="it restarts")]

    async def fail_once(self: Dispatcher, timeout: float) -> DrainReport:
        if failures:
            raise failures.pop()
        return await drain(self, timeout)

    monkeypatch.setattr(Dispatcher, "drain", fail_once)
    delivered("replay", "mail", "--from", "1", "--yes")
    done = delivered("deliver", "--until-idle")
    assert (done.returncode, done.stderr, failures) == (0, "", [])
    assert done.stdout.endswith("mail got 5 events, nothing left\n")


def test_of_a_server_too(delivered: Run, piped: Any, tmp_path: Path) -> None:
    server = piped("serve", "--port", "0", "--json")
    url = json.loads(server.stdout.readline())["url"]
    done = delivered("replay", "mail", "--from", "2", "--yes", "--wait", "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mail has got everything up to position 5.\n"
    assert lines(tmp_path) == 9
    (tmp_path / "down").touch()
    done = delivered("replay", "mail", "--from", "5", "--yes", "--wait", "--url", url)
    assert done.returncode == 1
    assert f"parked now; see `trackside parked mail --url {url}`." in done.stdout
