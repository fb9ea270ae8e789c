"""The commands against a running server: they show what they show of its database, and to whom that is allowed."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forking import Forkery
from served_records import Served, objects, serving

from trackside.app.cli.records import remote
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness import ObserverBinding, RunManager, RunSpec
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, forkery: Forkery) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), forkery) as served:
        yield served


@pytest.fixture(params=["database", "server"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_a_server_is_asked_looks_as_what_its_database_is_asked(
    served: Served, here: Trackside, monkeypatch: pytest.MonkeyPatch
) -> None:
    for agent in ("echo", "fail", "ask"):
        here("run", agent, "hello", *served.at("server"))
    waiting, failed, done = (run["run_id"] for run in objects(here("runs", "-n", "3", "--json", *served.at("server"))))
    thread = objects(here("threads", "--status", "interrupted", "--json", *served.at("server")))[0]["thread_id"]
    monkeypatch.setattr(remote, "_PAGE", 2)  # so that there are pages

    for asked in (
        ("runs",),
        ("runs", "--status", "error", "--status", "success", "-n", "3"),
        ("runs", "--agent", "echo", "--since", "1h"),
        ("runs", "--thread", "thread-2"),
        ("runs", "--text", "KETTLES"),
        ("runs", "--cost-above", "0.0001"),
        ("runs", "--duration-above", "0.000001"),
        ("runs", "--waiting"),
        ("runs", "--waiting", "--agent", "ask", "--text", "ask"),
        ("runs", done),
        ("runs", failed[:-1]),
        ("runs", "run-1"),
        ("threads",),
        ("threads", "--status", "idle", "-n", "3"),
        ("threads", "--thread", "thread-1"),
        ("threads", thread),
        ("threads", "thread-1"),
        ("events",),
        ("events", "--thread", "thread-1"),
        ("events", "-n", "7"),
        ("events", "--after", "3", "-n", "5"),
        ("events", "--status", "error", "--type", "run_started"),
        ("events", "--run", waiting, "--agent", "ask"),
        ("stats",),
        ("stats", "--agent", "echo", "--since", "1h"),
        ("stats", "--by", "1d"),
        ("subscriptions",),
        ("subscriptions", "mail"),
        ("parked", "mail"),
    ):
        there, at_home = (here(*asked, "--json", *served.at(place)) for place in ("server", "database"))
        assert objects(there) == objects(at_home) != [], asked
        there, at_home = (here(*asked, *served.at(place)) for place in ("server", "database"))
        assert there.stdout.split("\n")[0].split() == at_home.stdout.split("\n")[0].split()


def test_a_command_that_is_suggested_carries_the_place_that_was_asked(
    served: Served, here: Trackside, place: str
) -> None:
    at = served.at(place)
    shown = " ".join(at[:2])  # never the key

    assert f"`trackside runs {shown}` lists them" in here("runs", "nobody", *at).stderr
    assert f"`trackside threads {shown}` lists them" in here("threads", "nobody", *at).stderr
    assert f"`trackside subscriptions {shown}` lists" in here("subscriptions", "nobody", *at).stderr
    assert f"`trackside run AGENT INPUT --thread thread-1 {shown}`" in here("resume", "thread-1", "yes", *at).stderr


def test_a_whole_id_is_found_however_many_newer_ones_begin_with_it(
    served: Served, here: Trackside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def later(input: object) -> None:
        """Never begins."""

    async def record() -> None:
        async with Store.open(served.database) as store:
            writes = ObserverBinding(StorageObserver(store), required=True)
            async with RunManager({"later": later}, observers=[writes], coordinator=store.coordinator()) as manager:
                await manager.start(RunSpec("later", run_id="later", after_seconds=3_600))
            for number in ("", *range(1, 6)):
                await store.append(make_run(f"many{number}", thread_id=f"of-many{number}"))
                await store.append(make_run(f"later{number}", thread_id=f"of-later{number}") if number else [])

    asyncio.run(record())
    monkeypatch.setattr(remote, "_PAGE", 3)

    for typed, status in {"many": "success", "later": "pending"}.items():
        (found,) = objects(here("runs", typed, "--json", *served.at("server")))[:1]
        assert (found["run_id"], found["status"]) == (typed, status)
    assert "'man' is the beginning of the ids of more than one" in here("runs", "man", *served.at("server")).stderr


def test_a_copy_of_a_thread_that_waits_is_said_to_wait_though_it_has_no_runs(
    served: Served, here: Trackside, place: str
) -> None:
    here("run", "ask", "hello", *served.at("server"))
    thread = objects(here("threads", "--status", "interrupted", "--json", *served.at("server")))[0]["thread_id"]

    async def copied() -> str:
        async with Store.open(served.database) as store:
            copy = await store.threads_of(None).copy(thread)
            return copy.thread_id

    copy = asyncio.run(copied())
    shown, refused = here("threads", copy, *served.at(place)), here("resume", copy, "7", *served.at(place))

    assert "It waits, but no run of it has said for what, as with a copy of a thread" in shown.stdout
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: Thread '{copy}' waits, but no run of it has said for what")
    assert f"at /threads/{copy} and in its console" in refused.stderr
    assert "It waits, but" not in here("threads", thread, *served.at(place)).stdout


def test_a_thread_that_waits_since_its_state_was_changed_is_said_to_wait_though_its_last_run_asked_nothing(
    served: Served, here: Trackside, place: str
) -> None:
    thread = f"changed-{place}"

    async def changed() -> None:
        async with Store.open(served.database) as store:
            await store.append(make_run(f"of-{thread}", thread_id=thread))
            await store.threads_of(None).note_state(thread, waits=True)

    asyncio.run(changed())
    shown, refused = here("threads", thread, *served.at(place)), here("resume", thread, "7", *served.at(place))

    assert "It waits, but no run of it has said for what" in shown.stdout
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: Thread '{thread}' waits, but no run of it has said for what")


def test_ids_are_found_by_their_ends_too(served: Served, here: Trackside, place: str) -> None:
    newest = objects(here("runs", "-n", "1", "--json", *served.at("server")))[0]
    run_id, thread_id = newest["run_id"], newest["thread_id"]

    for typed in (run_id[-8:], f"…{run_id[-8:]}"):
        assert objects(here("runs", typed, "--json", *served.at(place)))[0]["run_id"] == run_id
        found = objects(here("runs", "--text", typed, "--json", *served.at(place)))
        assert run_id in [run["run_id"] for run in found]
    assert objects(here("threads", f"…{thread_id[-7:]}", "--json", *served.at(place)))[0]["thread_id"] == thread_id


def test_what_cannot_be_found_is_said_in_the_same_words(served: Served, here: Trackside, place: str) -> None:
    at = served.at(place)

    for asked, said in {
        ("runs", "run-9"): "No run here has an id that begins with 'run-9'",
        (
            "runs",
            "…nobody",
        ): "No run here has an id that begins with '…nobody', and no recent one an id that ends with it",
        ("runs", "run-"): "'run-' is the beginning of the ids of more than one run",
        ("threads", "nobody"): "No thread here has an id that begins with 'nobody'",
        ("cancel", "run-1", "run-9"): "No run here has an id that begins with 'run-9'",
        ("retry", "run-1"): "The request of run 'run-1' is not kept",
        ("resume", "thread-1", "yes"): "Thread 'thread-1' does not wait for an answer",
        ("subscriptions", "nobody"): "nobody",
        ("runs", "run-1", "--text", "x"): "--text: one run cannot be filtered",
        ("runs", "run-1", "--waiting"): "--waiting: one run cannot be filtered",
        ("runs", "--cost-above", "much"): "--cost-above: 'much' is not an amount",
    }.items():
        done = here(*asked, *at)
        assert (done.returncode, done.stdout) == (2, ""), asked
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("thread", ["", "t-1", "..", ".", "a/b", "x?y#z", "%2e%2e", "half \udcff"])
def test_a_thread_whose_id_no_server_has_is_refused_before_a_run_is_started(
    served: Served, here: Trackside, thread: str
) -> None:
    before = here("runs", "--json", *served.at("server")).stdout

    done = here("run", "echo", "hello", "--thread", thread, *served.at("server"))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --thread: ")
    assert done.stderr.endswith(" is not a UUID, as the ids of a server's threads are.\n")
    assert here("runs", "--json", *served.at("server")).stdout == before


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("stats --since 1h --until 2h", "--until"),
        ("stats --since 9000d --by 1m", "--by"),
        ("replay mail --from 999999 --yes", "--from"),
    ],
)
def test_what_does_not_fit_is_called_as_it_was_typed(
    served: Served, here: Trackside, place: str, command: str, option: str
) -> None:
    done = here(*command.split(), *served.at(place))

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {option}: ")
    assert "=" not in done.stderr


@pytest.mark.parametrize("name", ["..", ".", "...", "x?y", "#", "%2F"])
def test_a_name_leads_nowhere_but_to_what_it_names(served: Served, here: Trackside, place: str, name: str) -> None:
    at = served.at(place)
    assert f"no subscription {name!r}" in here("subscriptions", name, *at).stderr

    async def open_it() -> None:
        async with Store.open(served.database) as store:
            await store.subscriptions.open(name)

    asyncio.run(open_it())
    assert here("subscriptions", name, "pause", *at).returncode == 0
    assert objects(here("subscriptions", name, "--json", *at))[0]["state"] == "paused"
    assert here("subscriptions", name, "delete", "--yes", *at).returncode == 0
    assert here("subscriptions", name, *at).returncode == 2


def test_what_is_no_text_is_nothing_to_ask_a_server_for(served: Served, here: Trackside) -> None:
    at = served.at("server")
    for command in (["runs", "\udcff"], ["events", "--agent", "\udcff"], ["subscriptions", "\udcff"], ["parked", ""]):
        done = here(*command, *at)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr.startswith(f"error: {command[-1]!r}: "), command

    *_, last = objects(here("run", "echo", "half \udcff", "--json", *at))
    assert last["result"]["output"] == {"answer": "half \N{REPLACEMENT CHARACTER}"}


def test_a_key_does_what_it_may(served: Served, here: Trackside) -> None:
    for permission, code in {"read": 2, "run": 0}.items():
        at = served.at("server", permission)
        assert here("runs", *at).returncode == 0
        assert here("run", "echo", "x", *at).returncode == code
        refused = here("subscriptions", *at)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "--permission admin" in refused.stderr
        told = here("doctor", *at)
        assert (told.returncode, "only to keys with the permission 'admin'" in told.stdout) == (1, True)
        assert "All is well" not in told.stdout
    with_read = here("run", "echo", "x", *served.at("server", "read"))
    assert "does not allow it" in with_read.stderr
    assert "--permission run" in with_read.stderr

    nobody = here("runs", "--url", served.url)
    assert (nobody.returncode, "give a key with --api-key" in nobody.stderr) == (2, True)
    wrong = here("runs", "--url", served.url, "--api-key", "tsk_nonsense")
    assert (wrong.returncode, "does not let this key in" in wrong.stderr) == (2, True)
    assert "tsk_nonsense" not in wrong.stderr
    by_environment = here("runs", "--json", TRACKSIDE_URL=served.url, TRACKSIDE_API_KEY=served.keys["admin"])
    assert by_environment.returncode == 0
    chosen = here("runs", "--json", "-d", served.database, TRACKSIDE_URL="http://127.0.0.1:1")
    assert chosen.stdout == by_environment.stdout != ""


def test_the_doctor_of_a_server_says_what_that_finds(served: Served, here: Trackside) -> None:
    found = objects(here("doctor", "--json", *served.at("server")), code=1)

    parked = next(finding for finding in found if "events are parked" in finding["what"])
    assert parked["severity"] == "warning"
    assert parked["fix"].endswith(f"`trackside parked mail --database {served.database}`")


def test_an_installed_command_asks_a_server_through_a_pipe(
    served: Served, trackside: Trackside, tmp_path: Path
) -> None:
    done = trackside("events", "--json", "-n", "4", *served.at("server"))
    short = trackside("events", *served.at("server"), shell='"$0" "$@" | head -1')

    assert [event["position"] for event in objects(done)] == sorted(event["position"] for event in objects(done))
    assert short.stdout.startswith("POSITION")
    assert short.stderr == ""
    assert [*tmp_path.iterdir()] == []  # there is no database here, and none was made
