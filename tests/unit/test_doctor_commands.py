"""Each finding of `trackside doctor` that needs attention ends with a command that can be copied as it stands."""

from __future__ import annotations

import asyncio
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_parser import understood

from trackside.app.cli.suggesting import suggest_at
from trackside.app.settings import Settings, load_settings
from trackside.app.storage import Store
from trackside.app.storage.health import Health, RunHealth
from trackside.app.storage.subscriptions import OnFailure, Subscription, SubscriptionFilter, SubscriptionState
from trackside.app.wiring.doctor import Finding, Severity, examine, findings_in
from trackside.app.wiring.system import system_sources

NOW = datetime.now(UTC)
ODD = "t 1; rm -r $HOME 'x'"


ACTIVE, PAUSED = SubscriptionState.active, SubscriptionState.paused


def subscription(
    name: str,
    *,
    failures: int = 0,
    parked: int = 0,
    consumer: str | None = None,
    state: SubscriptionState = ACTIVE,
) -> Subscription:
    long_ago = NOW - timedelta(days=1)
    return Subscription(
        name=name,
        filter=SubscriptionFilter(),
        on_failure=OnFailure.block,
        state=state,
        cursor=3,
        behind=5,
        oldest_at=long_ago,
        parked=parked,
        consumer=consumer,
        failures=failures,
        last_error="no",
        last_error_at=None,
        created_at=long_ago,
        updated_at=long_ago,
    )


def commands(finding: Finding) -> list[list[str]]:
    """The words of each command that the finding ends with, as a shell splits them."""
    found = re.fullmatch(r"[^`]*`(.+)`", finding.fix, re.DOTALL)
    assert found is not None, finding
    return [shlex.split(part) for part in found[1].split(" && ")]


def check(findings: list[Finding], flags: list[str]) -> set[str]:
    """Check that the parser understands all commands and that they name the database; return which ones they are."""
    understood_as = set()
    for finding in findings:
        for program, *words in commands(finding) if finding.severity is not Severity.note else ():
            if program == "trackside":
                understood_as.add(understood(words))
                assert words[-len(flags) :] == flags or not flags, finding
    return understood_as


@pytest.mark.parametrize("flags", [[], ["--database", "sqlite:///my records.db"]])
def test_what_is_found_in_a_database_ends_with_commands_that_work(flags: list[str]) -> None:
    run = RunHealth(run_id=ODD, thread_id=ODD, agent="chat", since=NOW - timedelta(days=1), worker=None)
    health = Health(
        workers=[],
        stuck=[run],
        abandoned=[run],
        unclaimed=[run],
        left_busy=[ODD],
        subscriptions=[subscription(ODD, failures=2, parked=1), subscription("a"), subscription("b", consumer="c")],
        damage=["torn"],
        clock_ahead=60.0,
        unattended=[run],
    )
    found = [*findings_in(health, "db", NOW, f" {shlex.join(flags)}" if flags else "")]
    assert check(found, flags) == {
        "runs",
        "cancel",
        "threads",
        "replay",
        "parked",
        "deliver",
        "subscriptions",
        "export",
    }
    thread = next(finding for finding in found if finding.where.startswith("thread"))
    assert commands(thread)[0][2] == ODD


def test_what_begins_like_an_option_is_none_in_the_commands() -> None:
    run = RunHealth(run_id="-r", thread_id="-1001", agent="chat", since=NOW - timedelta(days=1), worker=None)
    health = Health(
        workers=[],
        stuck=[run],
        abandoned=[run],
        unclaimed=[],
        left_busy=["-1001"],
        subscriptions=[subscription("-s", failures=2, parked=1), subscription("-s", failures=1, state=PAUSED)],
        damage=[],
        clock_ahead=0.0,
    )
    told = [" ".join(words) for found in findings_in(health, "db", NOW, " --database x") for words in commands(found)]
    assert [understood(line.split()[1:]) for line in told] == [line.split()[1] for line in told]
    assert told == [
        "trackside runs --database x -- -r",
        "trackside cancel --database x -- -r",
        "trackside threads --database x -- -1001",
        "trackside replay --from 5 --database x -- -s",
        "trackside parked --database x -- -s",
        "trackside subscriptions --database x -- -s resume",
    ]


def test_the_place_that_was_asked_stands_before_what_begins_like_an_option() -> None:
    said = "see `trackside parked -- -s` or `trackside parked 'a -- b'`"
    assert suggest_at(" -d x", said) == "see `trackside parked -d x -- -s` or `trackside parked 'a -- b' -d x`"


def test_the_database_that_was_typed_is_in_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///other records.db"
    asyncio.run(make(url))
    Path("other records.db-spool").write_text("in the way")
    typed = asyncio.run(examine(load_settings({"database.url": url}), least_room=2**62))
    assert check(typed, ["--database", url]) == {"prune", "db compact"}
    monkeypatch.setenv("TRACKSIDE_DATABASE_URL", url)
    assert check(asyncio.run(examine(load_settings(), least_room=2**62)), []) == {"prune", "db compact"}


def test_a_server_looks_at_its_own_database_wherever_its_agents_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///records.db"
    asyncio.run(make(url))
    sources = system_sources(Settings(database_url=url, database_spool="spool"))
    here = sources.look()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert sources.look() == here


def test_a_subscription_that_is_paused_since_its_receiver_is_gone_is_to_be_seen_to() -> None:
    gone, asleep = subscription(ODD, failures=1, state=PAUSED), subscription("asleep", state=PAUSED)
    health = Health(
        workers=[],
        stuck=[],
        abandoned=[],
        unclaimed=[],
        left_busy=[],
        subscriptions=[gone, asleep],
        damage=[],
        clock_ahead=0.0,
    )
    told, note = findings_in(health, "db", NOW)
    assert (told.severity, note.severity) == (Severity.warning, Severity.note)
    assert told.what == "it is paused, and 5 events behind, since its next event failed once: no"
    assert commands(told) == [["trackside", "subscriptions", ODD, "resume"]]
    assert check([told], []) == {"subscriptions"}


async def make(url: str) -> None:
    async with Store.open(url):
        pass
