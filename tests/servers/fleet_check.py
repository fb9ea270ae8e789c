"""What has to hold of a system at rest, a server or a fleet, whatever was killed in it; without any of our code.

    counts = assert_sound(database, journal, words)

It looks at the log and the queue (SQL), at the journal that agents have written (`fenced_journal`), at what clients
were told (`told_words`), and at what a receiver of webhooks has got. `log_check` has the rules for the log alone,
`execution_check` those for the execution of its runs, and `word_check` those for what clients were told.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from execution_check import attempts, execution, overlaps, twice
from fenced_journal import FencedJournal
from log_check import ENDS, Rows, Told, found_wrong, look_into
from told_words import Asked, Words
from word_check import (
    answers,
    causes,
    crons,
    deleted_threads,
    ends,
    items,
    missing,
    requests,
    stateless_threads,
    streams,
    threads,
    webhooks,
)

__all__ = ["LOST", "Asked", "Counts", "Kept", "Words", "assert_sound", "look_over"]

LOST = "worker_lost"
TAKEN_AWAY = {LOST, "process_crashed", "memory_limit"}
"""The error types of runs that were taken from a worker, or that ended their own process."""

type Bodies = Sequence[Mapping[str, Any]]
"""What a receiver of webhooks has got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The figures of a system's work."""

    runs: int
    events: int
    ends: int
    """Terminal events."""
    by_status: dict[str, int]
    asked: int
    answered: int
    """Clients that waited, and were told the truth."""
    lost: int
    """Runs that were acknowledged and are not there, or have not ended, and acknowledged events that are not in the log."""
    doubles: int
    """Runs that were executed twice, or by two workers at once."""
    double_ends: int
    """Runs that have ended more than once."""
    stuck: int
    """Threads that are not at rest."""
    anew: int
    """Attempts after the first."""
    refused: int
    """Writes of workers that had been taken for dead."""
    told_of_gaps: int
    """Followers who missed live output, were told so, and got the true end."""


def assert_sound(url: str, journal: FencedJournal, words: Words, bodies: Bodies = ()) -> Counts:
    """Assert that nothing is wrong; returns the counts."""
    counts, wrong = look_over(url, journal, words, bodies)
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong, of {counts}:", *wrong[:25]])
    return counts


def look_over(url: str, journal: FencedJournal, words: Words, bodies: Bodies = ()) -> tuple[Counts, list[str]]:
    """The counts of a system's work, and what is wrong with it, a sentence each."""
    with look_into(url) as database:
        kept = Kept(database)
        wrong = [*words.wrong, *_broken(url, database)]
        gone = words.deleted | words.unsure
        events = {event_id: digest for event_id, (digest, thread_id) in words.events.items() if thread_id not in gone}
        wrong += found_wrong(database, Told(events=events), cleared=words.cleared)
    unstored = events.keys() - {event["event_id"] for event in kept.events}
    entries = journal.entries()
    doubles = [*twice(entries), *overlaps(kept, entries)]
    lost = [*missing(kept, words)]
    wrong += [*doubles, *lost, *execution(kept, entries, words), *attempts(kept)]
    for check in (answers, causes, ends, streams, requests, threads, deleted_threads, stateless_threads, items, crons):
        wrong += check(kept, words)
    wrong += webhooks(kept, words, bodies)
    unended = {run_id for run_id, row in kept.runs.items() if row["ended_at"] is None}
    ends_of = Counter(event["run_id"] for event in kept.events if event["event_type"] in ENDS)
    counts = Counts(
        runs=len(kept.runs),
        events=len(kept.events),
        ends=ends_of.total(),
        by_status=dict(Counter(row["status"] for row in kept.runs.values())),
        asked=len(words.asked),
        answered=sum(one.is_answered for one in words.asked.values()),
        lost=len(lost) + len(unended) + len(unstored),
        doubles=len(doubles),
        double_ends=sum(number > 1 for number in ends_of.values()),
        stuck=sum(row["status"] == "busy" for row in kept.threads.values()),
        anew=sum(row["retry_of"] is not None for row in kept.attempts.values()),
        refused=sum(entry.what == "refused" for entry in entries),
        told_of_gaps=sum(one.told_of_gaps for one in words.asked.values()),
    )
    return counts, wrong


def _broken(url: str, database: Any) -> list[str]:
    """What SQLite says of its own file."""
    if not url.startswith("sqlite"):
        return []
    said = database.execute("PRAGMA integrity_check").fetchall()
    said += database.execute("PRAGMA foreign_key_check").fetchall()
    return [f"the file is broken: {row}" for row in said if row != ("ok",)]


class Kept(Rows):
    """The log and the queue, how attempts follow each other, and what else a server keeps."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.attempts = {row["run_id"]: row for row in self._all("runs", "run_id, attempt, retry_of")}
        self.ends = {event["run_id"]: event["payload"] for event in self.events if event["event_type"] in ENDS}
        self.kept_threads = {
            row["thread_id"]: row for row in self._all("threads", "thread_id, metadata, removed_at, ends")
        }
        self.items = {row["key"]: json.loads(row["value"]) for row in self._all("items", "key, value")}
        self.crons = {row["cron_id"] for row in self._all("crons", "cron_id, schedule")}

    def was_taken_away(self, run_id: str) -> bool:
        """Whether a run was ended because nobody seemed to execute it any more."""
        row = self.runs.get(run_id)
        return row is not None and (
            row["error_type"] in TAKEN_AWAY or self.ends.get(run_id, {}).get("cancel_mode") == "shutdown"
        )

    def last_attempt(self, run_id: str) -> str:
        """The last of the attempts that go on for a run."""
        while (after := self.ends.get(run_id, {}).get("retried_as")) in self.runs:
            run_id = after
        return run_id

    def is_gone(self, thread_id: str | None) -> bool:
        """Whether a thread was removed."""
        row = self.kept_threads.get(thread_id or "")
        return row is None or row["removed_at"] is not None
