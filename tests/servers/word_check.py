"""What has to hold of what clients and receivers of webhooks were told: it is what the log says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from told_words import Words

if TYPE_CHECKING:
    from fleet_check import Kept

FAILED = {"error", "timeout"}
UNSTORED = "a required observer"
"""I14: part of what is told of a run whose end could not be stored at once."""
AWAY = {
    "ConnectionLostError",
    "DatabaseBusyError",
    "DatabaseFullError",
    "DatabaseIOError",
    "DatabaseNotOpenedError",
    "OutcomeUnknownError",
    "ReadBlockedError",
    "ReadLostError",
    "ReadStoppedError",
    "ReadersBusyError",
    "ServerUnreachableError",
    "StatementStoppedError",
    "TooManyConnectionsError",
}
"""The error types of graphs whose steps could not be kept."""
FORGETS = {"ThreadNotSavedError", "ThreadNotLoadedError", "ThreadNotRolledBackError"}
"""The error types of other runs; the error says why."""
ON_THE_WIRE = {"interrupted": "success", "cancelled": "interrupted"}


def missing(kept: Kept, words: Words) -> Iterator[str]:
    """What was acknowledged is there, on its thread."""
    for run_id, asked in words.asked.items():
        if asked.thread_id in words.deleted | words.unsure:
            continue
        row = kept.runs.get(run_id)
        if row is None:
            yield f"run {run_id} of {asked.agent} was acknowledged, and is lost"
        elif asked.thread_id not in {None, row["thread_id"]}:
            yield f"run {run_id} was said to be on thread {asked.thread_id}, and is on {row['thread_id']}"


def answers(kept: Kept, words: Words) -> Iterator[str]:
    """A client that waited was told what the log says, and got what he had asked for."""
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        last = kept.runs[kept.last_attempt(run_id)]
        may_end = row["status"] in {"success", "interrupted"} or asked.may_be_cancelled or asked.may_fail
        if not may_end and last["status"] != "success":
            yield f"run {run_id} ended as {row['status']} ({row['error_type']}: {row['error']})"
        if asked.status not in {None, row["status"]}:
            yield f"run {run_id} was told to have ended as {asked.status}, and it ended as {row['status']}"
        if not asked.is_answered:
            continue
        failure = asked.answer.get("__error__") if isinstance(asked.answer, dict) else None
        if failure is not None and UNSTORED in failure["message"]:
            continue
        told_of = [one for one in (row, last) if (failure is not None) == (one["status"] in FAILED)]
        if not told_of:
            yield f"who waited for run {run_id} was told {asked.answer}, and it ended as {row['status']}"
        elif failure is not None and failure["error"] not in {one["error_type"] for one in told_of}:
            yield f"who waited for run {run_id} was told {failure}, and it failed with {row['error_type']}"
        elif told_of[-1]["status"] == "success" and asked.token not in json.dumps(asked.answer):
            yield f"who waited for run {run_id} was told {asked.answer}, and not {asked.token}"


def causes(kept: Kept, words: Words) -> Iterator[str]:
    """A run that came to no good end did so for a known reason, if its agent is known: the agent fails, somebody has
    stopped it, its process was killed, or the database was in trouble.
    """
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if row is None or row["ended_at"] is None or row["status"] in {"success", "interrupted"} or not asked.agent:
            continue
        known = kept.was_taken_away(run_id) or UNSTORED in (row["error"] or "") or _is_of_the_place(row)
        known |= asked.may_be_cancelled and row["status"] == "cancelled"
        known |= asked.agent == "fails" and row["error_type"] == "ValueError"
        if not known:
            yield f"run {run_id} of {asked.agent} ended as {row['status']} ({row['error_type']}: {row['error']})"


def _is_of_the_place(row: Mapping[str, Any]) -> bool:
    """Whether a run failed because of its database's state (full, away, in somebody's hands), or for lack of memory."""
    error = str(row["error"])
    if row["error_type"] == "MemoryError" or "can't start new thread" in error:
        return True
    return row["error_type"] in AWAY or (
        row["error_type"] in FORGETS and any(words in error for words in ("database", "server of", "connection to"))
    )


def ends(kept: Kept, words: Words) -> Iterator[str]:
    """A client that followed a run to its end was told the end that is stored."""
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if row is None or asked.end is None:
            continue
        (event, data), failed = asked.end, row["status"] in FAILED
        if (event == "error") != failed:
            yield f"who followed run {run_id} was told {event} {data}, and it ended as {row['status']}"
        elif not failed and data.get("status") != ON_THE_WIRE.get(row["status"], row["status"]):
            yield f"who followed run {run_id} was told {data}, and it ended as {row['status']}"
        elif failed and data.get("error") != row["error_type"] and UNSTORED not in data.get("message", ""):
            yield f"who followed run {run_id} was told {data}, and it failed with {row['error_type']}"


def streams(kept: Kept, words: Words) -> Iterator[str]:
    """A follower got everything in order and nothing twice, and missed nothing if he was there all the time."""
    for run_id, asked in words.asked.items():
        for numbers in asked.followed:
            if numbers != sorted(set(numbers)):
                yield f"who followed run {run_id} got the parts {numbers}"
            elif asked.parts is not None and numbers != [*range(asked.parts)]:
                yield f"who followed run {run_id} got {len(numbers)} of {asked.parts} parts: {numbers}"


def requests(kept: Kept, words: Words) -> Iterator[str]:
    """A request that was made twice with its key is one run."""
    for first, second in words.asked_again:
        if first != second:
            yield f"one request has made the runs {first} and {second}"


def threads(kept: Kept, words: Words) -> Iterator[str]:
    """Threads are as they were acknowledged."""
    for thread_id, metadata in words.threads.items():
        if thread_id in words.deleted | words.unsure:
            continue
        row = kept.kept_threads.get(thread_id)
        if row is None or row["removed_at"] is not None:
            yield f"thread {thread_id} was acknowledged, and is lost"
        elif not metadata.items() <= json.loads(row["metadata"] or "{}").items():
            yield f"thread {thread_id} was said to have {metadata}, and has {row['metadata']}"


def deleted_threads(kept: Kept, words: Words) -> Iterator[str]:
    """Threads whose removal was acknowledged are gone."""
    for thread_id in words.deleted:
        if not kept.is_gone(thread_id):
            yield f"thread {thread_id} was said to be removed, and is there"


def stateless_threads(kept: Kept, words: Words) -> Iterator[str]:
    """The thread of a run that asked for none of its own is gone with the run."""
    for run_id, asked in words.asked.items():
        row = kept.runs.get(run_id)
        if asked.stateless and row is not None and not kept.is_gone(row["thread_id"]):
            yield f"the thread {row['thread_id']} of the stateless run {run_id} is still there"


def items(kept: Kept, words: Words) -> Iterator[str]:
    """Items are as they were acknowledged."""
    for key, value in words.items.items():
        if kept.items.get(key) != value:
            yield f"item {key} was said to be {value}, and is {kept.items.get(key)}"


def crons(kept: Kept, words: Words) -> Iterator[str]:
    """Crons are there; each of their times that came has started one run."""
    started: Counter[str] = Counter()
    for run_id, row in kept.runs.items():
        cron_id = json.loads(row["metadata"]).get("cron_id")
        if cron_id is not None and kept.attempts[run_id]["retry_of"] is None:
            started[cron_id] += 1
    for cron_id, times in words.crons.items():
        if cron_id not in kept.crons:
            yield f"cron {cron_id} was acknowledged, and is lost"
        if started[cron_id] != times:
            yield f"cron {cron_id} has started {started[cron_id]} runs, and {times} of its times have come"


def webhooks(kept: Kept, words: Words, bodies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """I25: each end was told to its receiver at least once, as it was."""
    told: dict[str, set[str]] = {}
    for body in bodies:
        told.setdefault(body["run_id"], set()).add(body["status"])
    for run_id, asked in words.asked.items():
        if asked.webhook and run_id in kept.runs and run_id not in told:
            yield f"the receiver of run {run_id} was never told of its end, as {kept.runs[run_id]['status']}"
    for run_id, said in told.items():
        row = kept.runs.get(run_id)
        if row is None:
            continue
        for status in said - {ON_THE_WIRE.get(row["status"], row["status"])}:
            yield f"the receiver of run {run_id} was told {status}, and it ended as {row['status']}"
