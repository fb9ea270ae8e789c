"""Observers of `trackside.toml` on the command line: `run` tells them, `deliver` feeds them, `observers` shows them."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trackside.app.cli.actions.delivering import _Report
from trackside.app.storage import Store, feeding
from trackside.app.storage.subscriptions import Subscription, SubscriptionConsumer, Subscriptions
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
async def echo(input, run):
    return "done"
"""

WATCH = """
import asyncio
import os
from pathlib import Path

from trackside.app.delivery import Delivery, DeliveryError, Order

def note(name, event):
    with open(f"{name}.txt", "a") as file:
        file.write(event.event_type + "\\n")

class Note:
    def __init__(self, *, to):
        self.to = to
    async def on_event(self, event):
        note(self.to, event)
    async def aclose(self):
        Path(f"{self.to}.closed").touch()

class Mail(Note):
    delivery = Delivery.durable

class Endpoint(Mail):
    events = ["run_completed"]
    async def on_event(self, event):
        if not os.path.exists("up"):
            raise DeliveryError(receiver="the endpoint", what="it", why="connection refused", away=True)
        note(self.to, event)

class Refusing(Mail):
    order = Order.none
    async def on_event(self, event):
        await asyncio.sleep(0.05)
        if not os.path.exists("up"):
            raise DeliveryError(receiver="the endpoint", what="it", why="400", retryable=False)
        note(self.to, event)

class Deaf(Note):
    async def aclose(self):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

class Dies(Note):
    def __init__(self, *, to):
        os._exit(7)

class Gate(Note):
    async def on_event(self, event):
        raise RuntimeError("closed for today")

class Curious(Note):
    def watch(self, vitals):
        self.vitals = vitals
    async def on_event(self, event):
        stats = self.vitals.writer()
        with open("vitals.txt", "w") as file:
            print(stats.events_total, [f.subscription for f in self.vitals.feeds()], list(self.vitals.observers()),
                  self.vitals.manager().started_total, self.vitals.spooled(), file=file)
"""

WHOLE_RUN = ["run_started", "thread_status_updated", "human_message", "run_completed", "thread_status_updated"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    (tmp_path / "watch.py").write_text(WATCH, encoding="utf-8")
    return tmp_path


def configure(folder: Path, *tables: str) -> None:
    text = "".join(f"[[observers]]\n{table}\n" for table in tables)
    (folder / "trackside.toml").write_text(text, encoding="utf-8")


def table(type: str, name: str, more: str = "") -> str:
    return f'type = "watch.py:{type}"\nname = "{name}"\nto = "{name}"\n{more}'


def noted(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.txt"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def closed(folder: Path) -> set[str]:
    """The observers whose `aclose` was called since the last call of this."""
    files = list(folder.glob("*.closed"))
    for file in files:
        file.unlink()
    return {file.stem for file in files}


def run(trackside: Trackside) -> subprocess.CompletedProcess[str]:
    done = trackside("run", "agents.py:echo", "hi")
    assert "completed" in done.stdout, done.stderr
    return done


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_is_told_to_all_observers_and_they_are_closed(here: Trackside, folder: Path) -> None:
    configure(
        folder,
        table("Note", "all"),
        table("Note", "ends", 'events = ["run_completed", "run_failed"]'),
        table("Note", "others", 'agent = "other.py:agent"'),
        table("Mail", "mail"),
        table("Mail", "messages", 'events = ["human_message"]\nagent = "agents.py:echo"'),
        table("Curious", "curious"),
    )
    done = run(here)

    assert (done.returncode, done.stderr) == (0, "")
    assert noted(folder, "all") == WHOLE_RUN
    assert noted(folder, "ends") == ["run_completed"]
    assert noted(folder, "others") == []
    assert noted(folder, "mail") == WHOLE_RUN
    assert noted(folder, "messages") == ["human_message"]
    assert {path.stem for path in folder.glob("*.closed")} == {"all", "ends", "others", "mail", "messages", "curious"}
    assert (folder / "vitals.txt").read_text(encoding="utf-8") == (
        "5 ['mail', 'messages'] ['all', 'ends', 'others', 'curious', 'Timeline'] 1 0\n"
    )


def test_a_receiver_that_is_away_is_left_for_later_and_deliver_goes_on(
    here: Trackside, folder: Path, left_for_later_when: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_for_later_when(lambda found: len(found) == 2 and found["hook"].failures > 0 and not found["mail"].behind)
    monkeypatch.setattr("trackside.app.cli.actions.running.DELIVERY_SECONDS", 0.5)
    configure(folder, table("Endpoint", "hook"), table("Mail", "mail"))
    done = run(here)
    assert done.returncode == 0
    assert done.stderr == (
        "not everything is delivered yet to hook (the endpoint did not take it: connection refused): `trackside deliver`"
        " continues, as does the next `trackside run`\n"
    )
    assert (noted(folder, "hook"), noted(folder, "mail")) == ([], WHOLE_RUN)

    (folder / "up").touch()
    done = here("deliver", "hook", "--until-idle")
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("hook goes on after position ")
    assert last == "hook got 1 event, nothing left"
    assert noted(folder, "hook") == ["run_completed"]

    told = objects(here("deliver", "--until-idle", "--json"))
    assert [(one["observer"], one["what"]) for one in told] == [
        ("hook", "goes_on"),
        ("mail", "goes_on"),
        ("hook", "ended"),
        ("mail", "ended"),
    ]
    assert told[-1] == {"observer": "mail", "what": "ended", "delivered": 0, "parked": 0, "behind": 0, "to_retry": 0}


def test_who_fails_and_who_is_delivered_to_again_is_said_once(
    piped: Callable[..., Any], here: Trackside, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackside.app.cli.actions.running.DELIVERY_SECONDS", 0.1)
    configure(
        folder, table("Endpoint", "hook", "longest_pause = 0.1"), table("Endpoint", "other", "longest_pause = 0.1")
    )
    assert run(here).stderr == (
        "not everything is delivered yet to hook, other: `trackside deliver` continues, as does the next `trackside run`;"
        " `trackside subscriptions` says why\n"
    )
    process = piped("deliver", "hook", "--json")
    told = [json.loads(process.stdout.readline()) for _ in range(2)]
    (folder / "up").touch()
    while told[-1]["what"] != "recovered":
        told.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    told += [json.loads(line) for line in out.splitlines()]

    assert (process.returncode, err) == (0, "")
    # An observer slower than its lease finds that it no longer delivers, and then becomes the one that does again.
    those = [one for one in told if one["what"] not in {"goes_on", "elsewhere"}]
    assert [one["what"] for one in those] == ["failing", "recovered", "ended"]
    assert those[0]["error"] == "the endpoint did not take it: connection refused"
    ended = {"observer": "hook", "what": "ended", "delivered": 1, "parked": 0, "behind": 0, "to_retry": 0}
    assert those[2] == ended


def test_ctrl_c_while_a_run_waits_for_its_observers_leaves_them_for_later(
    terminal: Callable[..., Any], folder: Path
) -> None:
    configure(folder, table("Endpoint", "hook"))
    screen = terminal("run", "agents.py:echo", "hi")
    screen.wait_for("delivering")
    screen.press(b"\x03")

    assert screen.wait() == 0
    assert "✓ completed" in screen.text
    assert "not everything is delivered yet to hook" in screen.text


def test_who_is_not_fed_is_closed_as_deliver_begins(here: Trackside, folder: Path) -> None:
    configure(folder, table("Note", "note"), table("Mail", "mail"))

    assert here("deliver", "--until-idle").returncode == 0

    assert (folder / "note.closed").exists()
    assert noted(folder, "note") == []


@pytest.mark.parametrize(
    ("arguments", "code"), [(("mail",), 0), (("note",), 2), (("--database", "sqlite:///watch.py"), 2)]
)
def test_all_observers_are_closed_whomever_deliver_feeds(
    here: Trackside, folder: Path, arguments: tuple[str, ...], code: int
) -> None:
    configure(folder, table("Note", "note"), table("Mail", "mail"), table("Mail", "other"))

    assert here("deliver", "--until-idle", *arguments).returncode == code

    assert closed(folder) == {"note", "mail", "other"}


def test_what_another_process_has_not_delivered_is_waited_for(
    here: Trackside, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(folder, table("Mail", "mail"))
    run(here)

    async def leave_behind() -> None:
        async with Store.open(f"sqlite:///{folder / 'trackside.db'}") as store:
            await store.append(make_run("by-another"))
            consumer = await store.subscriptions.acquire("mail", consumer="killed", lease_seconds=600)
            assert consumer.lease_seconds == 600  # never released

    def end_lease() -> None:
        with closing(sqlite3.connect(folder / "trackside.db", isolation_level=None)) as database:
            database.execute("UPDATE subscriptions SET lease_until = 0 WHERE consumer = 'killed'")

    say = _Report.say

    def say_before_it_ends(self: _Report, name: str, what: str, text: str, **more: Any) -> None:
        say(self, name, what, text, **more)
        if what == "elsewhere":
            asyncio.get_running_loop().run_in_executor(None, end_lease)

    asyncio.run(leave_behind())
    monkeypatch.setattr(_Report, "say", say_before_it_ends)
    monkeypatch.setattr(feeding, "LOOK_EVERY", 0.05)
    done = here("deliver", "--until-idle")

    assert done.returncode == 0
    assert "mail is fed by killed; from here if that stops" in done.stdout
    assert done.stdout.splitlines()[-1] == "mail got 5 events, nothing left"


def test_a_process_is_not_told_that_it_feeds_from_elsewhere(
    here: Trackside, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who looks at the database may see who is fed there before the process has heard that it is its turn."""
    configure(folder, table("Mail", "mail"))
    run(here)
    acquired, looked = asyncio.Event(), asyncio.Event()
    acquire, standings = Subscriptions.acquire, Subscriptions.all

    async def hear_late(self: Subscriptions, name: str, **options: Any) -> SubscriptionConsumer:
        consumer = await acquire(self, name, **options)
        acquired.set()
        await looked.wait()
        return consumer

    async def look_between(self: Subscriptions) -> list[Subscription]:
        await acquired.wait()
        found = await standings(self)
        assert looked.is_set() or found[0].consumer is not None
        asyncio.get_running_loop().call_later(0.1, looked.set)
        return found

    monkeypatch.setattr(Subscriptions, "acquire", hear_late)
    monkeypatch.setattr(Subscriptions, "all", look_between)
    told = objects(here("deliver", "--until-idle", "--json"))

    assert [one["what"] for one in told] == ["goes_on", "ended"]


def test_what_an_observer_refuses_is_parked_and_said(here: Trackside, folder: Path) -> None:
    run(here)
    configure(folder, table("Refusing", "strict", 'start = "beginning"\nevents = ["run_completed"]'))

    done = here("deliver", "--until-idle")

    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [
        "strict did not take 1 event, parked now: the endpoint did not take it: 400; see `trackside parked strict`",
        "strict got 0 events, 1 parked, nothing left",
    ]
    assert here("parked", "strict").stdout.count("did not take it: 400") == 1


def test_all_that_was_parked_and_shall_be_tried_again_is_tried_before_deliver_is_idle(
    here: Trackside, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackside.app.cli.actions.delivering._LOOK_SECONDS", 0.05)
    run(here)
    configure(folder, table("Refusing", "strict", 'start = "beginning"'))
    assert here("deliver", "--until-idle").stdout.endswith("strict got 0 events, 5 parked, nothing left\n")

    assert here("parked", "strict", "retry").returncode == 0
    done = here("deliver", "--until-idle")
    assert done.returncode == 1
    assert done.stdout.endswith("strict got 0 events, 5 parked, nothing left\n"), "what fails again is parked again"

    (folder / "up").touch()
    assert here("parked", "strict", "retry").returncode == 0
    assert here("subscriptions", "strict", "pause").returncode == 0
    done = here("deliver", "--until-idle")
    assert done.stdout.endswith("strict got 0 events, 5 left to retry\n"), "nobody waits for a paused one"
    assert here("subscriptions", "strict", "resume").returncode == 0
    done = here("deliver", "--until-idle")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("strict got 5 events, nothing left\n")
    assert sorted(noted(folder, "strict")) == sorted(WHOLE_RUN)


def test_deliver_goes_on_until_it_is_stopped(piped: Callable[..., Any], here: Trackside, folder: Path) -> None:
    configure(folder, table("Mail", "mail"))
    process = piped("deliver", "--json")
    assert json.loads(process.stdout.readline()) == {"observer": "mail", "what": "goes_on", "cursor": 0, "behind": 0}
    (folder / "trackside.toml").rename(folder / "kept.toml")
    run(here)  # records alone
    while noted(folder, "mail") != WHOLE_RUN:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()

    assert (process.returncode, err) == (0, "")
    ended = {"observer": "mail", "what": "ended", "delivered": 5, "parked": 0, "behind": 0, "to_retry": 0}
    assert json.loads(out) == ended


def test_a_required_observer_that_fails_fails_the_run(here: Trackside, folder: Path) -> None:
    configure(folder, table("Note", "note"), table("Gate", "gate", "required = true"))

    done = here("run", "agents.py:echo", "hi")

    assert done.returncode == 1
    assert "closed for today" in done.stdout
    assert noted(folder, "note") == []


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ([], "there is nobody to deliver to: trackside.toml has no observer that is fed from the log"),
        ([table("Note", "note")], "there is nobody to deliver to"),
        ([table("Mail", "mail")], "NAME: no observer is called 'note'; fed from the log are mail."),
        (
            [table("Mail", "mail"), table("Note", "note")],
            "NAME: note is live: the process that runs the agents tells it as they go on.",
        ),
    ],
)
def test_deliver_to_somebody_who_is_not_fed_is_refused(
    here: Trackside, folder: Path, tables: list[str], says: str
) -> None:
    configure(folder, *tables)

    done = here("deliver", "note")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")


def test_a_mistake_stops_the_start_before_anything_runs(here: Trackside, folder: Path) -> None:
    configure(folder, table("Note", "note", "tto = 1"))

    for command in (("run", "agents.py:echo", "hi"), ("deliver",)):
        done = here(*command)
        assert (done.returncode, done.stdout) == (2, "")
        said = "trackside.toml, observers[1] (note).tto: there is no such key; did you mean to?"
        assert done.stderr == f"error: {said} [settings]\n"
    assert not (folder / "trackside.db").exists()


def test_a_module_that_fails_shows_its_own_traceback_and_none_of_ours(here: Trackside, folder: Path) -> None:
    (folder / "broken.py").write_text("def load():\n    return 1 / 0\n\nload()\n", encoding="utf-8")
    configure(folder, 'type = "broken.py:Mail"\nname = "mail"')

    done = here("run", "agents.py:echo", "hi")

    assert done.returncode == 2
    *trace, error = done.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ZeroDivisionError: division by zero"
    assert not any("trackside/" in line for line in trace)
    assert error.startswith("error: trackside.toml, observers[1] (mail).type: broken.py:Mail cannot be loaded")


def test_observers_are_listed_with_what_is_wrong_and_what_there_is(here: Trackside, folder: Path) -> None:
    configure(
        folder,
        table("Note", "gate", "required = true"),
        table("Mail", "mail", 'events = ["run_failed"]\nagent = "chat"'),
        table("Mial", "wrong"),
    )
    done = here("observers")
    assert done.returncode == 0
    assert closed(folder) == {"gate", "mail"}, "what was made to be shown is closed again"
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[:4]] == ["NAME", "gate", "mail", "wrong"]

    gate, mail, wrong, *available = objects(here("observers", "--json"))
    assert (gate["configured"], gate["delivery"], gate["required"], gate["error"]) == ("gate", "live", True, None)
    assert (mail["delivery"], mail["events"], mail["agent"]) == ("durable", ["run_failed"], "chat")
    assert (wrong["delivery"], wrong["error"][:26]) == (None, "type: watch.py has no Mial")
    assert {"available": "webhook", "from": "trackside", "what": "a signed HTTP request for each event"}.items() <= (
        next(one for one in available if one["available"] == "webhook").items()
    )


def test_doctor_makes_each_observer_and_names_subscriptions_of_nobody(here: Trackside, folder: Path) -> None:
    configure(folder, table("Mail", "old"))
    run(here)
    assert closed(folder) == {"old"}
    configure(folder, table("Note", "note"), table("Mail", "mail", "toto = 1"))

    done = here("doctor", "--json")
    error, note = [json.loads(line) for line in done.stdout.splitlines() if "disk" not in line]

    assert done.returncode == 1
    assert closed(folder) == {"note"}
    assert (error["severity"], error["where"]) == ("error", "trackside.toml, observers[2] (mail).toto")
    assert error["what"].startswith("there is no such key; ")
    assert note == {
        "severity": "note",
        "what": "nobody feeds it, and the settings here have no observer of this name",
        "where": "subscription old",
        "fix": "",
    }


def test_doctor_says_once_what_becomes_of_a_process_that_makes_an_observer(here: Trackside, folder: Path) -> None:
    configure(folder, table("Dies", "dies"))

    found = [json.loads(line) for line in here("doctor", "--json").stdout.splitlines()]
    (error,) = [finding for finding in found if finding["severity"] == "error"]

    assert error["where"] == "trackside.toml, observers[1] (dies)"
    assert error["what"] == "the process that imported it ended with 7"


def test_who_does_not_want_to_be_closed_keeps_no_command_that_tries_him(trackside: Trackside, folder: Path) -> None:
    configure(folder, table("Deaf", "deaf"))

    shown = objects(trackside("observers", "--json"))
    found = [json.loads(line) for line in trackside("doctor", "--json").stdout.splitlines()]

    assert (shown[0]["configured"], shown[0]["error"]) == ("deaf", None)
    assert [finding for finding in found if finding["severity"] == "error"] == []
    assert trackside("serve", "--check", "agents.py:echo").returncode == 0
