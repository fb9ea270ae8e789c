"""SIGSTOP in the middle of a run until its lease is over and another attempt has ended; then SIGCONT (I5, I7)."""

import json
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from crash_children import PATIENCE, Child, Children
from dialects import BOTH
from log_check import assert_whole, look_into

STOPS = [
    ("before", "SaveThreadState"),
    ("before", "remember"),
    ("after", "call"),
    ("after", "remember"),
    ("before", "Settle"),
    ("before", "end"),
]
CASES = [
    pytest.param(stop_at, url, marks=[pytest.mark.long] if url == "postgres" and stop_at not in STOPS[:1] else [])
    for stop_at in STOPS
    for url in BOTH
]


def stands_still(zombie: Child) -> None:
    """Wait until it does: else it would be told to go on before that."""
    until = monotonic() + PATIENCE
    while Path(f"/proc/{zombie.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "T":
        assert monotonic() < until
        zombie.wait_for("dead", patience=0.01)


def outlive(zombie: Child, children: Children, kind: str, url: str, **options: Any) -> Child:
    """Let another process finish what it does, and only then the first one go on, to its end."""
    assert zombie.wait_for("begun")
    stands_still(zombie)
    other = children.make(kind, url, **options)
    assert other.wait() == 0
    zombie.signal(signal.SIGCONT)
    assert zombie.wait() == 0
    return other


def assert_second_attempt_counts(url: str, children: Children) -> None:
    assert_whole(url, children.told)
    assert children.told.ended == {"first": "error"}
    assert ask(url, "SELECT attempt, status, error_type FROM runs ORDER BY attempt") == [
        (1, "error", "worker_lost"),
        (2, "success", None),
    ]
    assert ask(url, "SELECT remembered FROM thread_states") == [('{"attempt":2}',)]
    assert ask(url, "SELECT payload FROM events WHERE event_type = 'human_message'") == []


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with look_into(url) as database:
        return [tuple(row) for row in database.execute(query).fetchall()]


@pytest.mark.parametrize(("stop_at", "url"), CASES, indirect=["url"])
def test_a_zombie_changes_nothing_that_another_attempt_has_done(
    stop_at: tuple[str, str], url: str, children: Children
) -> None:
    outlive(children.make("haunt", url, starts=True, stop_at=stop_at), children, "haunt", url, starts=False)

    assert_second_attempt_counts(url, children)


def test_the_agent_of_a_zombie_is_stopped_and_not_heard(url: str, children: Children) -> None:
    zombie = children.make("haunt", url, starts=True, waits=True)
    assert zombie.wait_for("begun")
    zombie.signal(signal.SIGUSR1)  # not SIGSTOP, which might come in the middle of a transaction

    outlive(zombie, children, "haunt", url, starts=False)

    assert zombie.said["stopped"] == 1
    assert_second_attempt_counts(url, children)


def test_a_zombie_that_takes_back_a_threads_first_run_removes_nothing_that_later_ones_have_left(
    url: str, children: Children
) -> None:
    zombie = children.make("talk", url, says="one", unsays=True)

    second = outlive(zombie, children, "talk", url, says="two")
    third = children.make("talk", url, says="three")
    assert third.wait() == 0

    assert_whole(url, children.told)
    assert children.told.ended == {"one": "error", "two": "success", "three": "success"}
    assert ask(url, "SELECT error_type FROM runs WHERE run_id = 'one'") == [("worker_lost",)]
    assert json.loads(second.last["remembers"]) == ["one", "two"]
    assert json.loads(third.last["remembers"]) == ["one", "two", "three"]
