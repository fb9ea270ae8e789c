"""The commands against a running server: they show what they show of its database, and what they do is done there."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from trackside_server import TracksideServer

from trackside.app.cli.actions import remote_running
from trackside.app.cli.records import remote
from trackside.app.cli.records.lookup import find_paused_run
from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import RunStatus
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
import asyncio
import operator
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph

async def echo(input, run):
    run.set_title("On \\u2028 trains")
    run.record_usage("gpt-5-mini", input_tokens=1200, output_tokens=400)
    for number in range(3):
        run.send({"step": number, "text": "a\\u2028b\\u0085c"})
    return {"answer": input}

async def fail(input):
    raise LookupError("no kettles")

async def ask(input, run):
    return {"said": run.interrupt("how many?")}

async def sleep(input):
    await asyncio.Event().wait()

async def refund(input, run):
    return {order: run.interrupt(f"refund order {order}?") for order in (7, 8)}

async def sign(input, run):
    run.interrupt("may I?")
    await asyncio.Event().wait()

class Walked(TypedDict):
    steps: Annotated[list, operator.add]

steps = StateGraph(Walked)
for before, name in zip([START, "read", "pay"], ["read", "pay", "ship"]):
    steps.add_node(name, lambda state, name=name: {"steps": [name]}).add_edge(before, name)
walk = steps.compile()
"""
SETTINGS = '[server]\nauth = "keys"\n[agents]\n' + "".join(
    f'{name} = "agents.py:{name}"\n' for name in ("echo", "fail", "ask", "sleep", "sign", "refund", "walk")
)


@dataclass(frozen=True)
class Served:
    """A server, its database, and keys of the three permissions."""

    url: str
    database: str
    keys: dict[str, str]

    def at(self, place: str, permission: str = "admin") -> list[str]:
        """What has to be typed for the records of a place."""
        if place == "database":
            return ["--database", self.database]
        return ["--url", self.url, "--api-key", self.keys[permission]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, forkery: Forkery) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "agents.py").write_text(AGENTS)
    database = f"sqlite:///{folder / 'runs.db'}"
    keys = asyncio.run(prepare(database))
    with TracksideServer(folder, database=database, settings=SETTINGS, forkery=forkery) as server:
        yield Served(server.url, database, keys)


async def prepare(database: str) -> dict[str, str]:
    """Keys; runs of another program; a subscription that has parked an event, and one that is paused."""
    async with Store.open(database) as store:
        for number, status in enumerate((RunStatus.success, RunStatus.error, RunStatus.success), 1):
            await store.append(make_run(f"run-{number}", thread_id=f"thread-{number}", messages=number, status=status))
        subs = store.subscriptions
        await subs.open("mail", start="beginning", types=["run_failed", "human_message"])
        async with await subs.acquire("mail") as consumer:
            batch = await consumer.read()
            for stored in batch.events[:2]:
                await consumer.park(stored.position, "no such user", attempts=5)
        await subs.open("hook", start=3)
        await subs.pause("hook")
        for number in (10, 11):  # whose ids begin as that of another one
            await store.threads_of(None).create(f"thread-{number}")
        made = {}
        for permission in ("read", "run", "admin"):
            made[permission] = (await store.api_keys.create(permission, owner="ada", permission=permission)).secret
        return made


@pytest.fixture(params=["database", "server"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def objects(done: subprocess.CompletedProcess[str], code: int = 0) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (code, "")
    return [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n")]


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
    httpx.post(f"{served.url}/threads/{thread}/runs/wait", json=body, headers=key).raise_for_status()
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
