"""What has to hold of a fleet that is at rest, whatever was killed in it; from what is promised, without any of our code.

    counts = assert_sound(database, journal, words)

It looks at the log and the queue (SQL), at the journal that agents have written (`fenced_journal`), and at what clients
were told.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fenced_journal import Entry, FencedJournal
from log_check import ENDS, Rows, found_wrong, look_into

LOST = "worker_lost"
TAKEN_AWAY = {LOST, "process_crashed", "memory_limit"}
"""As what runs fail that are taken from a worker, or that were the end of their own process."""
ON_THE_WIRE = {"interrupted": "success", "cancelled": "interrupted"}


@dataclass(slots=True)
class Asked:
    """A run that a client has asked for, and what he was told of it."""

    run_id: str
    thread_id: str
    token: str
    """What the right answer has in it."""
    may_be_cancelled: bool = False
    answer: Any = None
    is_answered: bool = False
    followed: list[list[int]] = field(default_factory=list)
    """The numbers that each of his followers got, those that resumed one behind the other."""
    told_of_gaps: int = 0
    """How many followers were told that they do not get all of it."""
    parts: int | None = None
    """How many numbers there are, if a follower was there from the beginning and missed nothing."""


@dataclass(slots=True)
class Words:
    """What all clients were told."""

    asked: dict[str, Asked] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What they themselves found wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a fleet's work comes to."""

    runs: int
    ends: int
    """Terminal events."""
    by_status: dict[str, int]
    asked: int
    answered: int
    """Clients that waited, and were told the truth."""
    lost: int
    """Runs that were acknowledged and are not there, or have not ended."""
    doubles: int
    """Runs that were executed twice, or by two workers at once."""
    stuck: int
    """Threads that are not at rest."""
    anew: int
    """Attempts after the first."""
    refused: int
    """Writes of workers that had been taken for dead."""
    told_of_gaps: int
    """Followers who missed live output, were told so, and got the true end."""


def assert_sound(url: str, journal: FencedJournal, words: Words) -> Counts:
    """Nothing is wrong; what it comes to."""
    counts, wrong = look_over(url, journal, words)
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong, of {counts}:", *wrong[:25]])
    return counts


def look_over(url: str, journal: FencedJournal, words: Words) -> tuple[Counts, list[str]]:
    """What a fleet's work comes to, and what is wrong with it, a sentence each."""
    with look_into(url) as database:
        kept = _Kept(database)
        wrong = [*words.wrong, *found_wrong(database)]
    entries = journal.entries()
    doubles = [*twice(entries), *overlaps(kept, entries)]
    lost = [*missing(kept, words)]
    wrong += [*doubles, *lost, *execution(kept, entries), *attempts(kept), *answers(kept, words), *streams(words)]
    unended = {run_id for run_id, row in kept.runs.items() if row["ended_at"] is None}
    counts = Counts(
        runs=len(kept.runs),
        ends=sum(event["event_type"] in ENDS for event in kept.events),
        by_status=dict(Counter(row["status"] for row in kept.runs.values())),
        asked=len(words.asked),
        answered=sum(one.is_answered for one in words.asked.values()),
        lost=len(lost) + len(unended),
        doubles=len(doubles),
        stuck=sum(row["status"] == "busy" for row in kept.threads.values()),
        anew=sum(row["retry_of"] is not None for row in kept.attempts.values()),
        refused=sum(entry.what == "refused" for entry in entries),
        told_of_gaps=sum(one.told_of_gaps for one in words.asked.values()),
    )
    return counts, wrong


class _Kept(Rows):
    """The log and the queue, and how attempts follow each other."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.attempts = {row["run_id"]: row for row in self._all("runs", "run_id, attempt, retry_of")}
        self.ends = {event["run_id"]: event["payload"] for event in self.events if event["event_type"] in ENDS}

    def was_taken_away(self, run_id: str) -> bool:
        """Whether a run was ended because nobody seemed to execute it any more."""
        row = self.runs.get(run_id)
        return row is not None and (
            row["error_type"] in TAKEN_AWAY or self.ends.get(run_id, {}).get("cancel_mode") == "shutdown"
        )


def twice(entries: Sequence[Entry]) -> Iterator[str]:
    """A run is executed once, by one process, and does nothing before or after."""
    entered: dict[str, Entry] = {}
    left: set[str] = set()
    for entry in entries:
        if entry.what == "enter":
            if entry.run_id in entered:
                yield f"run {entry.run_id} was executed by {entered[entry.run_id].pid}, and then by {entry.pid}"
            entered[entry.run_id] = entry
            continue
        first = entered.get(entry.run_id)
        if first is None or (first.pid, first.token) != (entry.pid, entry.token):
            yield f"run {entry.run_id} was entered by {first}, and then there is {entry}"
        if entry.run_id in left:
            yield f"run {entry.run_id} had left, and then there is {entry}"
        if entry.what == "leave":
            left.add(entry.run_id)


def overlaps(kept: _Kept, entries: Sequence[Entry]) -> Iterator[str]:
    """One run at a time on a thread, unless the one before was taken away from a worker; that one changes nothing more."""
    at: dict[str, Entry] = {}
    for entry in entries:
        holder = at.get(entry.thread_id)
        if entry.what == "enter":
            if holder is not None and not kept.was_taken_away(holder.run_id):
                yield f"run {entry.run_id} began on thread {entry.thread_id} by {entry.pid} while {holder} was there"
            at[entry.thread_id] = entry
        elif entry.what == "refused":
            if not kept.was_taken_away(entry.run_id):
                yield f"run {entry.run_id} was fenced off, and had not been taken away: {entry}"
        elif holder is None or holder.run_id != entry.run_id:
            yield f"run {entry.run_id} did something on thread {entry.thread_id} that {holder} had: {entry}"
        elif entry.what == "leave":
            del at[entry.thread_id]


def execution(kept: _Kept, entries: Sequence[Entry]) -> Iterator[str]:
    """What succeeded was executed to its end; what was executed has its start in the log."""
    done = {entry.run_id for entry in entries if (entry.what, entry.detail) == ("leave", "done")}
    for run_id in {entry.run_id for entry in entries}:
        row = kept.runs.get(run_id)
        if row is None or row["started_at"] is None:
            yield f"run {run_id} was executed, and its start is not in the log: {row}"
    for run_id, row in kept.runs.items():
        if row["status"] == "success" and run_id not in done:
            yield f"run {run_id} is said to have succeeded, and no agent came to its end"
        if row["error_type"] == LOST and row["started_at"] is None:
            yield f"run {run_id} of {row['agent']} had not started, and is lost"


def missing(kept: _Kept, words: Words) -> Iterator[str]:
    """What was acknowledged is there, on its thread."""
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if row is None:
            yield f"run {run_id} was acknowledged, and is lost"
        elif row["thread_id"] != asked.thread_id:
            yield f"run {run_id} was said to be on thread {asked.thread_id}, and is on {row['thread_id']}"


def attempts(kept: _Kept) -> Iterator[str]:
    """Attempts count 1, 2, 3 …; each goes on for one that was lost, which says so, and none has two that go on for it."""
    following: dict[str, list[str]] = defaultdict(list)
    for run_id, row in kept.attempts.items():
        before = row["retry_of"]
        if before is None:
            if row["attempt"] != 1:
                yield f"run {run_id} is attempt {row['attempt']} of nothing"
            continue
        following[before].append(run_id)
        if row["attempt"] != kept.attempts[before]["attempt"] + 1:
            yield f"run {run_id} is attempt {row['attempt']}, after {kept.attempts[before]}"
        if kept.ends.get(before, {}).get("retried_as") != run_id:
            yield f"run {run_id} goes on for {before}, whose end does not say so: {kept.ends.get(before)}"
    for run_id, followers in following.items():
        if len(followers) > 1:
            yield f"run {run_id} was started anew as {followers}"
    for run_id, end in kept.ends.items():
        if end.get("retried_as") not in {None, *following[run_id]}:
            yield f"run {run_id} says that it goes on as {end['retried_as']}, which does not"


def answers(kept: _Kept, words: Words) -> Iterator[str]:
    """Who waited was told what the log says, and got what he had asked for."""
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        if (
            row["status"] not in {"success", "interrupted"}
            and not asked.may_be_cancelled
            and not _goes_on(kept, run_id)
        ):
            yield f"run {run_id} ended as {row['status']} ({row['error_type']}: {row['error']})"
        if not asked.is_answered:
            continue
        failure = asked.answer.get("__error__") if isinstance(asked.answer, dict) else None
        last = kept.runs[_last(kept, run_id)]
        told_of = [one for one in (row, last) if (failure is not None) == (one["status"] in {"error", "timeout"})]
        if not told_of:
            yield f"who waited for run {run_id} was told {asked.answer}, and it ended as {row['status']}"
        elif failure is not None and failure["error"] not in {one["error_type"] for one in told_of}:
            yield f"who waited for run {run_id} was told {failure}, and it failed with {row['error_type']}"
        elif told_of[-1]["status"] == "success" and asked.token not in json.dumps(asked.answer):
            yield f"who waited for run {run_id} was told {asked.answer}, and not {asked.token}"


def streams(words: Words) -> Iterator[str]:
    """Who followed got everything in order, nothing twice, and nothing is missing where he was there all the time."""
    for run_id, asked in words.asked.items():
        for numbers in asked.followed:
            if numbers != sorted(set(numbers)):
                yield f"who followed run {run_id} got the parts {numbers}"
            elif asked.parts is not None and numbers != [*range(asked.parts)]:
                yield f"who followed run {run_id} got {len(numbers)} of {asked.parts} parts: {numbers}"


def _last(kept: _Kept, run_id: str) -> str:
    """The last of the attempts that go on for a run."""
    while (after := kept.ends.get(run_id, {}).get("retried_as")) in kept.runs:
        run_id = after
    return run_id


def _goes_on(kept: _Kept, run_id: str) -> bool:
    return bool(kept.runs[_last(kept, run_id)]["status"] == "success")
