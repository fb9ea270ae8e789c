"""What the torture makes of what it has seen: each thing that is wrong becomes a finding, and a trend is what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from delivery_check import Sample, events_of
from delivery_receivers import Arrival
from fenced_journal import FencedJournal
from tests.torture import report
from tests.torture.command import parse, plans
from tests.torture.faults import FAULTS
from tests.torture.judgement import ENDS, deliveries, findings, judge, nearest
from tests.torture.ordeal import Result
from tests.torture.soak import trend_of
from tests.torture.systems import System
from told_words import Words

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

RUN, THREAD = "0199c0de-0000-7000-8000-000000000001", "0199c0de-0000-7000-8000-000000000002"


class Left(System):
    """What a system has left in a folder."""

    name = "left"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"sqlite:///{folder}/runs.db"
        self.told = [folder / "clients.told"]
        self.arrived = folder / "arrivals"

    def samples(self, *cursors: int) -> dict[str, list[Sample]]:
        """How the subscription stood, each time long after everything had arrived."""
        return {"told": [Sample(cursor, frozenset(), 10**18 + number) for number, cursor in enumerate(cursors)]}


@pytest.fixture
async def left(tmp_path: Path, blockbuster: Any) -> Left:
    """A run that was acknowledged, executed, and told to a receiver."""
    blockbuster.deactivate()  # the agent writes its journal itself
    system, words = Left(tmp_path), Words(tmp_path / "clients.told")

    async def talks(input: Any) -> dict[str, Any]:
        FencedJournal(tmp_path).enter(RUN, THREAD).leave("done")
        return {"token": input}

    async with Store.open(system.url) as store:
        observers = [ObserverBinding(StorageObserver(store), required=True)]
        async with RunManager({"talks": talks}, observers=observers, coordinator=store.coordinator()) as manager:
            handle = await manager.start(RunSpec("talks", "one", thread_id=THREAD, run_id=RUN))
            words.tell("run", run_id=RUN, thread_id=THREAD, agent="talks", token="one")
            result = await handle.result()
            words.tell("answer", run_id=RUN, answer=result.output)
    words.close()
    return system


def arrivals(system: Left) -> list[Arrival]:
    """What a receiver that was told of all ends has got."""
    names = ("event_id", "run_id", "thread_id", "sequence", "event_type")
    ends = [event for event in events_of(system.url) if event.event_type in ENDS]
    bodies = [{name: getattr(end, name) for name in names} | {"payload": json.loads(end.payload)} for end in ends]
    return [
        Arrival(1, end.event_id, json.dumps({"data": body}).encode()) for end, body in zip(ends, bodies, strict=True)
    ]


def test_nothing_is_wrong_with_what_is_as_it_should_be(left: Left) -> None:
    last = max(event.position for event in events_of(left.url))
    assert [*deliveries(left.url, arrivals(left), left.samples(0, last), Words())] == []


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda told, samples: told.clear(), "was lost"),
        (
            lambda told, samples: told.__setitem__(
                0, told[0]._replace(body=told[0].body.replace(b"success", b"other"))
            ),
            "arrived as",
        ),
        (lambda told, samples: samples["told"].reverse(), "the cursor of told went back"),
        (lambda told, samples: samples.clear(), "there is no subscription told"),
    ],
    ids=["lost", "another body", "backwards", "nobody fed"],
)
def test_what_is_wrong_with_deliveries_is_found(left: Left, spoil: Callable[..., Any], wanted: str) -> None:
    last = max(event.position for event in events_of(left.url))
    told, samples = arrivals(left), left.samples(0, last)
    spoil(told, samples)
    found = [*deliveries(left.url, told, samples, Words())]
    assert any(wanted in what for what in found), found


def test_a_finding_has_what_clients_and_agents_and_the_log_say_of_its_run(left: Left) -> None:
    words = Words(left.told[0])
    words.tell("run", run_id=RUN)
    words.tell("answer", run_id=RUN, answer={"token": "another"})
    words.close()
    judgement = judge(left, left.told, left.arrived, left.samples(0, 100))
    about = next(one for one in judgement.findings if "was told {'token': 'another'}, and not one" in one.what)
    assert about.ids == [RUN]
    assert [json.loads(line.partition(" ")[2])["what"] for line in about.told] == ["run", "answer", "run", "answer"]
    assert ["enter" in about.journal[0], "leave" in about.journal[1]] == [True, True]
    assert about.rows[0]["event_type"] == "run_started"


def test_thousands_of_findings_are_said_and_the_first_have_what_there_is_of_them(left: Left) -> None:
    found = [*findings(left, left.told, [f"run {RUN} is wrong, {number}" for number in range(150)])]
    assert [one.what.rpartition(" ")[2] for one in found] == [str(number) for number in range(150)]
    assert all(one.rows for one in found[:100])
    assert not any(one.rows for one in found[100:])


def test_of_a_long_thread_a_finding_has_what_is_about_its_run_and_around_it() -> None:
    lines = [f"line {number}" for number in range(100)]
    named = [
        {"run", "thread"} if number in {60, 63} else {"thread"} if number % 2 else {"other"} for number in range(100)
    ]
    kept = nearest(lines, named, ["run", "thread"], ["run"])
    assert [int(line.split()[1]) for line in kept] == [*range(43, 60, 2), 60, 61, 63, *range(65, 80, 2)]
    assert nearest(lines[:3], named[:3], ["thread"], ["thread"]) == ["line 1"]
    assert nearest(lines, named, [], []) == []


def test_a_report_is_sound_only_if_nothing_is_wrong_and_all_happened(left: Left) -> None:
    good = Result(system="left", judgement=judge(left, left.told, left.arrived, left.samples(0, 100)))
    assert report.is_sound([good])
    assert not report.is_sound([])
    assert not report.is_sound([Result(system="left", missing=["kill-server"])])
    wrong = Result(system="left", findings=[*findings(left, left.told, [f"run {RUN} is lost"])])
    assert not report.is_sound([wrong])
    said = report.as_json([good, wrong], seed=1, seconds=2.0)
    assert json.loads(json.dumps(said)) == said
    assert (said["totals"]["acknowledged_runs"], said["totals"]["findings"], said["is_sound"]) == (1, 1, False)
    assert f"FINDING on left: run {RUN} is lost" in [*report.lines(said)]


def test_what_grows_is_no_flat_line() -> None:
    flat = [(float(at), 100e6 + at % 7 * 1e5) for at in range(0, 600, 2)]
    grows = [(at, size + at * 1e5) for at, size in flat]
    settles = [(at, size - 50e6 if at < 150 else size) for at, size in flat]
    assert trend_of("server-1 memory", flat).is_flat
    assert not trend_of("server-1 memory", grows).is_flat
    assert trend_of("server-1 memory", settles).is_flat


def test_time_and_kills_are_divided_between_systems() -> None:
    made = plans(parse(["--minutes", "10", "--kills", "100", "--only", "kill-server,kill-worker"]), seed=1)
    assert [(plan.system, plan.kills) for plan in made] == [("sqlite", 25), ("postgres", 25), ("fleet", 50)]
    assert 400 < sum(plan.seconds for plan in made) < 600
    assert len({plan.seed for plan in made}) == 3
    assert made == plans(parse(["--minutes", "10", "--kills", "100", "--only", "kill-server,kill-worker"]), seed=1)
    (alone,) = plans(parse(["--minutes", "10", "--database", "fleet"]), seed=1)
    assert alone.seconds > made[2].seconds


@pytest.mark.parametrize("arguments", [["--only", "kill-nobody"], ["--minutes", "0"], ["--kills", "-1"], ["soup"]])
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments)
    assert refused.value.code == 2


def test_each_fault_says_what_it_is() -> None:
    assert len({kind.name for kind in FAULTS}) == len(FAULTS)
    for kind in FAULTS:
        assert kind.does, kind
        assert kind.needs, kind


def test_the_checker_imports_nothing_of_the_product() -> None:
    code = "import sys, fleet_check, delivery_check; print([m for m in sys.modules if m.startswith('trackside')])"
    paths = [path for path in sys.path if Path(path).is_dir()]
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {paths}; {code}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in said.stdout.splitlines() if "trackside_server" not in line] == ["[]"]
