"""What has to hold of the execution of runs, by what agents have written of their calls and by the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fenced_journal import Entry
from told_words import Words

if TYPE_CHECKING:
    from fleet_check import Kept


def twice(entries: Sequence[Entry]) -> Iterator[str]:
    """A run is executed once, by one process, and nothing is done for it before or after."""
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


def overlaps(kept: Kept, entries: Sequence[Entry]) -> Iterator[str]:
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


def execution(kept: Kept, entries: Sequence[Entry], words: Words) -> Iterator[str]:
    """I7: what was let in is executed, unless somebody stopped it before; what succeeded came to its end."""
    entered = {entry.run_id: entry.thread_id for entry in entries}
    done = {entry.run_id for entry in entries if (entry.what, entry.detail) == ("leave", "done")}
    for run_id, thread_id in entered.items():
        row = kept.runs.get(run_id)
        if row is None and thread_id in words.deleted | words.unsure:
            continue
        if row is None or row["started_at"] is None:
            yield f"run {run_id} was executed, and its start is not in the log: {row}"
    for run_id, row in kept.runs.items():
        if row["status"] == "success" and run_id not in done:
            yield f"run {run_id} is said to have succeeded, and no agent came to its end"
        if row["status"] == "interrupted" and run_id not in entered:
            yield f"run {run_id} is said to have asked something, and no agent was called"
        if row["error_type"] == "worker_lost" and row["started_at"] is None:
            yield f"run {run_id} of {row['agent']} had not started, and is lost"
        asked = words.asked.get(run_id)
        if asked is not None and not asked.may_be_cancelled and row["started_at"] is None:
            yield f"run {run_id} of {row['agent']} was let in, and never executed: {row['status']}"


def attempts(kept: Kept) -> Iterator[str]:
    """Attempts count 1, 2, 3 …; each continues a lost one, which says so, and no attempt is continued by two."""
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
