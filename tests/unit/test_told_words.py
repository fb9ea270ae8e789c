"""What clients tell a checker is on disk before they go on, and reads back the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from told_words import Words


def told(words: Words) -> None:
    words.tell("run", run_id="one", thread_id="t", agent="talks", webhook=True)
    words.tell("run", run_id="one", thread_id="t", may_be_cancelled=True)
    words.tell("answer", run_id="one", answer={"token": "x"})
    for number in (0, 1):
        words.tell("follow", run_id="one")
        words.tell("part", run_id="one", number=number)
    words.tell("event", event_id="e", digest="d", thread_id="t")
    words.tell("end", run_id="one", event="end", data={"status": "success"})
    words.tell("again", first="one", second="one")
    words.tell("thread", thread_id="t", metadata={"made": 1})
    words.tell("thread", thread_id="t", metadata={"n": 2})
    words.tell("delete", thread_id="gone", positions=[3, 4])
    words.tell("deleted", thread_id="gone")
    words.tell("delete", thread_id="perhaps", positions=[])
    words.tell("item", key="k", value={"is": 1})
    words.tell("item", key="unsure", value=None)
    words.tell("change item", key="unsure")
    words.tell("cron", cron_id="c", times=2)
    words.tell("graph", thread_id="g", token="first")
    words.tell("wrong", why="because")


def test_what_was_told_is_read_back_as_it_was(tmp_path: Path) -> None:
    words, path = Words(tmp_path / "clients.told"), tmp_path / "clients.told"
    told(words)
    read = Words.read([path])
    words.close()
    asked = read.asked["one"]
    assert asked == words.asked["one"]
    assert (asked.thread_id, asked.agent, asked.webhook, asked.may_be_cancelled) == ("t", "talks", True, True)
    assert (asked.answer, asked.is_answered, asked.followed) == ({"token": "x"}, True, [[0], [1]])
    assert asked.end == ("end", {"status": "success"})
    assert (read.asked_again, read.threads) == ([("one", "one")], {"t": {"made": 1, "n": 2}})
    assert (read.deleted, read.unsure, read.cleared) == ({"gone"}, {"perhaps"}, {3, 4})
    assert (read.items, read.crons, read.graph_tokens) == ({"k": {"is": 1}}, {"c": 2}, {"g": ["first"]})
    assert (read.events, read.wrong) == ({"e": ("d", "t")}, ["because"])


def test_a_line_that_was_cut_off_was_told_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "clients.told"
    words = Words(path)
    told(words)
    words.close()
    with path.open("ab") as file:
        file.write(b'{"what": "run", "run_id": "tw')
    assert [*Words.read([path]).asked] == ["one"]


def test_what_nobody_can_be_told_is_no_line(tmp_path: Path) -> None:
    words = Words()
    with pytest.raises(ValueError, match="nobody is told 'nonsense'"):
        words.tell("nonsense")
