"""What has to hold of a server that was killed: the log and the queue are whole, and what its clients were told is true.

Written from what is promised, without any of our code: SQL, what clients were told, what agents have said of their calls,
and what a receiver of webhooks has got.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from log_check import Rows, found_wrong, look_into
from served_words import Words

FAILED = {"error", "timeout"}
UNSTORED = "a required observer"
ON_THE_WIRE = {"interrupted": "success", "cancelled": "interrupted"}


@dataclass(frozen=True)
class Seen:
    """What others have seen of the server's work."""

    words: Words
    executions: Sequence[str] = ()
    """The runs whose agents were called, each time that one was."""
    webhooks: Sequence[Mapping[str, Any]] = ()
    """Bodies that a receiver has got."""


def assert_kept(url: str, seen: Seen) -> None:
    """Nothing is wrong with a database that is at rest."""
    with look_into(url) as database:
        if url.startswith("sqlite"):
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        wrong = wrong_with(database, seen)
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:25]])


def wrong_with(database: Any, seen: Seen) -> list[str]:
    """What is wrong, a sentence each."""
    kept = _Kept(database)
    checks = (runs, execution, answers, streams, threads, items, crons, webhooks, stateless)
    wrong = [*seen.words.wrong, *found_wrong(database)]
    return wrong + [what for check in checks for what in check(kept, seen)]


class _Kept(Rows):
    """The log and the queue, and what else a server keeps."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.kept_threads = {
            row["thread_id"]: row for row in self._all("threads", "thread_id, metadata, removed_at, ends")
        }
        self.items = {row["key"]: json.loads(row["value"]) for row in self._all("items", "key, value")}
        self.crons = {row["cron_id"] for row in self._all("crons", "cron_id, schedule")}
        self.retries = {row["run_id"]: row["retry_of"] for row in self._all("runs", "run_id, retry_of")}

    def is_gone(self, thread_id: str | None) -> bool:
        """Whether a thread was removed."""
        row = self.kept_threads.get(thread_id or "")
        return row is None or row["removed_at"] is not None


def runs(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Every run that was acknowledged is there, on its thread, under its key; runs that waited were not lost."""
    words = seen.words
    for run_id, told in words.runs.items():
        row = kept.runs.get(run_id)
        if told.thread_id in words.deleted | words.unsure:
            continue
        if row is None:
            yield f"run {run_id} of {told.agent} was acknowledged, and is lost"
        elif told.thread_id not in (None, row["thread_id"]):
            yield f"run {run_id} was said to be on thread {told.thread_id}, and is on {row['thread_id']}"
    for first, second in words.asked_again:
        if first != second:
            yield f"one request has made the runs {first} and {second}"
    for run_id, row in kept.runs.items():
        if row["error_type"] == "worker_lost" and row["started_at"] is None:
            yield f"run {run_id} of {row['agent']} had not started, and is lost"


def execution(kept: _Kept, seen: Seen) -> Iterator[str]:
    """I7: what was let in was executed, once, unless somebody stopped it before; and what succeeded was."""
    called = Counter(seen.executions)
    for run_id, count in called.items():
        if count > 1:
            yield f"run {run_id} was executed {count} times"
    for run_id, row in kept.runs.items():
        if called[run_id] and row["started_at"] is None:
            yield f"run {run_id} was executed, and its start is not in the log"
        if row["status"] in {"success", "interrupted"} and not called[run_id]:
            yield f"run {run_id} of {row['agent']} is said to have ended as {row['status']}, and was never executed"
        told = seen.words.runs.get(run_id)
        if told is not None and not told.cancelled and row["started_at"] is None:
            yield f"run {run_id} of {row['agent']} was let in, and never executed: {row['status']}"


def answers(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Who waited was told what the store says."""
    for run_id, answer in seen.words.answers.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        failure = answer.get("__error__") if isinstance(answer, dict) else None
        if (
            failure is not None and UNSTORED in failure["message"]
        ):  # I14: what is told then is that it could not be stored
            continue
        if (failure is not None) != (row["status"] in FAILED):
            yield f"who waited for run {run_id} was told {answer}, and it ended as {row['status']}"
        elif failure is not None and failure["error"] != row["error_type"]:
            yield f"who waited for run {run_id} was told {failure}, and it failed with {row['error_type']}"
        token = seen.words.tokens.get(run_id)
        if row["status"] == "success" and token is not None and token not in json.dumps(answer):
            yield f"who waited for run {run_id} was told {answer}, and not {token}"


def streams(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Who followed was told the end that is stored, and nothing twice."""
    for run_id, (event, data) in seen.words.ends.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        failed = row["status"] in FAILED
        if (event == "error") != failed:
            yield f"who followed run {run_id} was told {event} {data}, and it ended as {row['status']}"
        elif not failed and data.get("status") != ON_THE_WIRE.get(row["status"], row["status"]):
            yield f"who followed run {run_id} was told {data}, and it ended as {row['status']}"
        elif failed and data.get("error") != row["error_type"]:
            yield f"who followed run {run_id} was told {data}, and it failed with {row['error_type']}"
    for run_id, numbers in seen.words.followed.items():
        if numbers != sorted(set(numbers)):
            yield f"who followed run {run_id} got the parts {numbers}"


def threads(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Threads are there as they were acknowledged, or gone."""
    words = seen.words
    for thread_id, metadata in words.threads.items():
        if thread_id in words.deleted | words.unsure:
            continue
        row = kept.kept_threads.get(thread_id)
        if row is None or row["removed_at"] is not None:
            yield f"thread {thread_id} was acknowledged, and is lost"
        elif not metadata.items() <= json.loads(row["metadata"] or "{}").items():
            yield f"thread {thread_id} was said to have {metadata}, and has {row['metadata']}"
    for thread_id in words.deleted:
        if not kept.is_gone(thread_id):
            yield f"thread {thread_id} was said to be removed, and is there"


def items(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Items are as they were acknowledged."""
    for key, value in seen.words.items.items():
        if kept.items.get(key) != value:
            yield f"item {key} was said to be {value}, and is {kept.items.get(key)}"


def crons(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Crons are there; each of their times that came has started one run."""
    started: Counter[str] = Counter()
    for run_id, row in kept.runs.items():
        cron_id = json.loads(row["metadata"]).get("cron_id")
        if cron_id is not None and kept.retries[run_id] is None:
            started[cron_id] += 1
    for cron_id, times in seen.words.crons.items():
        if cron_id not in kept.crons:
            yield f"cron {cron_id} was acknowledged, and is lost"
        if started[cron_id] != times:
            yield f"cron {cron_id} has started {started[cron_id]} runs, and {times} of its times have come"


def webhooks(kept: _Kept, seen: Seen) -> Iterator[str]:
    """Each end was told to its receiver, once at least, as it was."""
    told: dict[str, list[Mapping[str, Any]]] = {}
    for body in seen.webhooks:
        told.setdefault(body["run_id"], []).append(body)
    for run_id, run in seen.words.runs.items():
        if run.webhook and run_id in kept.runs and run_id not in told:
            yield f"the receiver of run {run_id} was never told of its end, as {kept.runs[run_id]['status']}"
    for run_id, bodies in told.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        status = ON_THE_WIRE.get(row["status"], row["status"])
        for said in {body["status"] for body in bodies} - {status}:
            yield f"the receiver of run {run_id} was told {said}, and it ended as {row['status']}"


def stateless(kept: _Kept, seen: Seen) -> Iterator[str]:
    """The thread of a run that has none of its own wish is gone with it."""
    for run_id, run in seen.words.runs.items():
        row = kept.runs.get(run_id)
        if run.stateless and row is not None and not kept.is_gone(row["thread_id"]):
            yield f"the thread {row['thread_id']} of the stateless run {run_id} is still there"
