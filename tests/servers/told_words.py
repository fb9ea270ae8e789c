"""What clients were told, noted as soon as an answer said so; in a file as well, if another process reads it.

    words = Words(folder / "clients.told")
    words.tell("run", run_id=run["run_id"], thread_id=run["thread_id"], agent="talks")
    words.tell("answer", run_id=run["run_id"], answer=answer)
    …
    look_over(database, journal, Words.read([folder / "clients.told"]))

Each fact is on disk before whoever was told it goes on, so that a checker knows of it whatever happens to them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(slots=True)
class Asked:
    """A run that a client has asked for, and what he was told of it."""

    run_id: str
    thread_id: str | None
    """None: no thread was named, as for a run that asked for none of its own."""
    token: str = ""
    """What the right answer contains."""
    may_be_cancelled: bool = False
    """Somebody has asked to cancel it, or started another that stops it."""
    may_fail: bool = False
    """It has one attempt, or is meant to fail."""
    answer: Any = None
    is_answered: bool = False
    followed: list[list[int]] = field(default_factory=list)
    """The numbers that each of his followers got, with those after a resume behind those before it."""
    told_of_gaps: int = 0
    """How many followers were told that they do not get all of it."""
    parts: int | None = None
    """How many numbers there are, if a follower was there from the beginning and missed nothing."""
    end: tuple[str, Any] | None = None
    """The last event that those who followed it to its end got, and its data."""
    status: str | None = None
    """How it ended, as its own process was told."""
    agent: str = ""
    stateless: bool = False
    """Its thread is removed with it."""
    webhook: bool = False
    """A receiver has to be told of its end."""

    @property
    def thread(self) -> str:
        """The thread of a run that was asked for on a thread."""
        assert self.thread_id is not None
        return self.thread_id


@dataclass(slots=True)
class Words:
    """All that clients were told. With a `file`, what they `tell` is in there before they go on."""

    file: Path | None = None
    asked: dict[str, Asked] = field(default_factory=dict)
    events: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The digest of the payload and the thread of each acknowledged event, by its id."""
    asked_again: list[tuple[str, str]] = field(default_factory=list)
    """The two runs that a client was told for one request, made twice with the same key."""
    threads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metadata of threads that were made and changed, as last acknowledged."""
    deleted: set[str] = field(default_factory=set)
    """Threads whose removal was acknowledged."""
    unsure: set[str] = field(default_factory=set)
    """Threads that somebody has asked to remove without getting an answer."""
    cleared: set[int] = field(default_factory=set)
    """Positions of events that existed when somebody asked to remove their thread: they may go."""
    items: dict[str, Any] = field(default_factory=dict)
    """Values of items, by their key; None: it was deleted. Items whose last change got no answer are not here."""
    crons: dict[str, int] = field(default_factory=dict)
    """How many of each cron's times have come."""
    graph_tokens: dict[str, list[str]] = field(default_factory=dict)
    """The tokens that graphs have acknowledged on each thread, in order."""
    wrong: list[str] = field(default_factory=list)
    """What the clients themselves found wrong."""
    _descriptor: int | None = None

    @classmethod
    def read(cls, files: Iterable[Path]) -> Self:
        """The contents of these files. A last line that is not whole was told to nobody who could go on."""
        words = cls()
        for path in files:
            for line in path.read_bytes().split(b"\n")[:-1]:
                words._take(**json.loads(line))
        return words

    def tell(self, what: str, **facts: Any) -> None:
        """Note something that a client was told; see the cases of `_take`."""
        line = json.dumps({"what": what, **facts})
        if self.file is not None:
            if self._descriptor is None:
                self._descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(self._descriptor, f"{line}\n".encode())
            os.fdatasync(self._descriptor)
        self._take(**json.loads(line))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, what: str, **facts: Any) -> None:
        match what:
            case "run":
                self._take_run(**facts)
            case "answer":
                asked = self.asked[facts["run_id"]]
                asked.answer, asked.is_answered = facts["answer"], True
            case "end":
                self.asked[facts["run_id"]].end = facts["event"], facts["data"]
            case "event":
                self.events[facts["event_id"]] = facts["digest"], facts["thread_id"]
            case "follow":  # from the beginning of what there is
                self.asked[facts["run_id"]].followed.append([])
            case "part":
                self.asked[facts["run_id"]].followed[-1].append(facts["number"])
            case "again":
                self.asked_again.append((facts["first"], facts["second"]))
            case "thread":
                self.threads.setdefault(facts["thread_id"], {}).update(facts["metadata"])
            case "delete":
                self.unsure.add(facts["thread_id"])
                self.cleared.update(facts["positions"])
            case "deleted":
                self.unsure.discard(facts["thread_id"])
                self.deleted.add(facts["thread_id"])
            case "change item":
                self.items.pop(facts["key"], None)
            case "item":
                self.items[facts["key"]] = facts["value"]
            case "cron":
                self.crons[facts["cron_id"]] = facts["times"]
            case "graph":
                self.graph_tokens.setdefault(facts["thread_id"], []).append(facts["token"])
            case "wrong":
                self.wrong.append(facts["why"])
            case _:
                raise ValueError(f"nobody is told {what!r}")

    def _take_run(self, run_id: str, **facts: Any) -> None:
        asked = self.asked.setdefault(run_id, Asked(run_id, facts.get("thread_id")))
        for name, value in facts.items():
            setattr(asked, name, value)
