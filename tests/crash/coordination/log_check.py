"""What has to hold in a database of runs, whatever died over it. Written from the contract, without any of our code.

    assert_whole("sqlite:///runs.db", told)

`told` is what processes said before they died: it has to be in the log, and true.
"""

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crash_voice import digest_of
from raw_postgres import RawConnection

ENDS = {"run_completed": "success", "run_failed": "error", "run_cancelled": "cancelled"}
OTHER_ENDS = {("run_completed", "interrupted"), ("run_failed", "timeout")}
FINAL = {*ENDS.values(), "interrupted", "timeout"}
POSSIBLE = [{"idle"}, {"busy"}, {"interrupted"}, {"error"}, {"idle", "interrupted"}]
"""A thread's status, and what a change says it was: a question still open may count, although it was idle since."""

STATUSES_OF_STATE = {"claimed": {"running"}, "ended": FINAL}
"""What a run may be in the log, by its state in the queue; in any other state it is pending."""

USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
PERIODS = (60, 3_600, 86_400)  # seconds

type Row = dict[str, Any]


@dataclass
class Told:
    """What processes have said, each thing once it was true for good."""

    events: dict[str, str] = field(default_factory=dict)
    """Digests of the payloads of events that were acknowledged, by id."""
    positions: dict[str, int] = field(default_factory=dict)
    """The positions of acknowledged events, as far as processes said them."""
    admitted: list[str] = field(default_factory=list)
    """Runs that were let in."""
    begun: list[str] = field(default_factory=list)
    """Runs whose agents were called."""
    ended: dict[str, str] = field(default_factory=dict)
    """How runs ended, by id."""
    keys: dict[str, str] = field(default_factory=dict)
    """The runs that idempotency keys name."""
    wrong: list[str] = field(default_factory=list)
    """What the processes themselves found wrong."""


class Rows:
    """All rows of a database that belong to the log and the queue."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.counter = database.execute("SELECT value FROM counters WHERE name = 'position'").fetchone()[0]
        self.events = self._all(
            "events", "position, event_id, run_id, thread_id, sequence, event_type, occurred_at, payload"
        )
        self.runs = {
            row["run_id"]: row
            for row in self._all(
                "runs",
                "run_id, thread_id, agent, status, created_at, started_at, ended_at, last_sequence, title, error, "
                f"error_type, metadata, completion_data, duration_seconds, cost_usd, {', '.join(USED)}",
            )
        }
        self.threads = {row["thread_id"]: row for row in self._all("threads", "thread_id, status, last_run_id")}
        self.active = self._all("active_runs", "ordinal, run_id, thread_id, state, holds, owner")
        self.usage = self._all("usage", f"run_id, kind, name, {', '.join(TOKENS)}, cost_usd")
        self.labels = self._all("run_labels", "key, value, run_id")
        self.keys = {row["key"]: row["run_id"] for row in self._all("idempotency_keys", "key, run_id")}
        for event in self.events:
            event["payload"] = json.loads(event["payload"])
        self.of_run: dict[str, list[Row]] = defaultdict(list)
        self.of_thread: dict[str, list[Row]] = defaultdict(list)
        for event in self.events:
            self.of_run[event["run_id"]].append(event)
            self.of_thread[event["thread_id"]].append(event)

    def sums(self, table: str, key: Sequence[str], amounts: Sequence[str]) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """The rows of a table of sums."""
        found = self._all(table, ", ".join([*key, *amounts]))
        return {tuple(row[name] for name in key): tuple(row[name] for name in amounts) for row in found}

    def _all(self, table: str, columns: str) -> list[Row]:
        names = [name.strip() for name in columns.split(",")]
        found = self._database.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]


def look_into(url: str) -> closing[Any]:
    """Open the database at this address, for `with`; both kinds have `execute(…).fetchall()`."""
    if url.startswith("sqlite"):
        return closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=60))
    return closing(RawConnection(url))


def end_of_log(url: str) -> int:
    """How many positions were given."""
    with look_into(url) as database:
        return int(database.execute("SELECT value FROM counters WHERE name = 'position'").fetchone()[0])


def assert_whole(url: str, told: Told | None = None, *, at_rest: bool = True) -> None:
    """Assert that nothing is wrong with a database; `at_rest`: every run should have ended."""
    with look_into(url) as database:
        if url.startswith("sqlite"):
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            database.execute("BEGIN")
        else:  # a server may still commit what a killed process has sent
            database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        wrong = found_wrong(database, told, at_rest=at_rest)
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:20]])


def found_wrong(
    database: Any, told: Told | None = None, *, at_rest: bool = True, cleared: Collection[int] = ()
) -> list[str]:
    """What is wrong, a sentence each.

    Args:
        database: a connection, as `look_into` gives it.
        told: what processes have said.
        at_rest: whether every run should have ended.
        cleared: positions that may be gone, along with threads that somebody has removed.
    """
    rows = Rows(database)
    checks = [
        sequences,
        run_rows,
        thread_rows,
        turns,
        queue,
        references,
        run_sums,
        duration_sums,
        usage_sums,
    ]
    wrong = [*positions(rows, cleared), *(what for check in checks for what in check(rows))]
    if at_rest:
        wrong += unfinished(rows)
    if told is not None:
        wrong += [*told.wrong, *broken_words(rows, told)]
    return wrong


def positions(rows: Rows, cleared: Collection[int] = ()) -> Iterator[str]:
    """I2: 1, 2, 3 … up to the counter, except for those that may be gone."""
    found = {event["position"] for event in rows.events}
    gaps = {*range(1, max(found, default=0) + 1)} - found - {*cleared}
    if gaps or len(found) < len(rows.events):
        yield f"the positions have a gap: {len(found)} events up to {max(found)}, without {sorted(gaps)[:10]}"
    if rows.counter != (last := max({*found, *cleared}, default=0)):
        yield f"the counter is at {rows.counter}, and there are {len(found)} events up to {last}"


def sequences(rows: Rows) -> Iterator[str]:
    """I1 and I3: a run is 1, 2, 3 … in the order of positions, begins with its start or its end, and ends once."""
    for run_id, events in rows.of_run.items():
        kinds = [event["event_type"] for event in events]
        if [event["sequence"] for event in events] != [*range(1, len(events) + 1)]:
            yield f"run {run_id} has the sequences {[event['sequence'] for event in events]}"
        if kinds[0] != "run_started" and kinds[0] not in ENDS:
            yield f"run {run_id} begins with {kinds[0]}"
        if "run_started" in kinds[1:]:
            yield f"run {run_id} starts twice"
        ends = [place for place, kind in enumerate(kinds) if kind in ENDS]
        if len(ends) > 1:
            yield f"run {run_id} has {len(ends)} ends: {kinds}"
        if ends and set(kinds[ends[0] + 1 :]) - {*ENDS, "thread_status_updated"}:
            yield f"run {run_id} goes on after its end: {kinds}"
        if len({event["thread_id"] for event in events}) > 1:
            yield f"run {run_id} is on two threads"


def run_rows(rows: Rows) -> Iterator[str]:
    """I6: the row of a run is what its events say."""
    for run_id in rows.of_run.keys() - rows.runs.keys():
        yield f"run {run_id} has events and no row"
    used: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for row in rows.usage:
        used[row["run_id"]].add((row["kind"], row["name"], *(row[name] for name in TOKENS), row["cost_usd"]))
    for run_id, row in rows.runs.items():
        expected = _folded(rows.of_run[run_id])
        if expected.pop("usage") != used[run_id]:
            yield f"the usage of run {run_id} is not what its end says"
        stored = row | {"completion_data": json.loads(row["completion_data"] or "null")}
        differing = {name: (stored[name], value) for name, value in expected.items() if stored[name] != value}
        if differing:
            yield f"the row of run {run_id} is not what its events say (found, expected): {differing}"


def _folded(events: Sequence[Row]) -> Row:
    row: Row = {"status": "pending", "last_sequence": len(events), "started_at": None, "ended_at": None, "usage": set()}
    row |= dict.fromkeys(("title", "error", "error_type", "completion_data"))
    row |= dict.fromkeys(USED, 0)
    for event in events:
        kind, says = event["event_type"], event["payload"]
        row["thread_id"] = event["thread_id"]
        if kind == "run_started":
            row |= {"status": "running", "started_at": event["occurred_at"], "agent": says.get("agent")}
        elif kind in ENDS:
            data = says.get("completion_data", {})
            status = says.get("status")
            row["status"] = status if (kind, status) in OTHER_ENDS else ENDS[kind]
            kept = {name: told for name, told in data.items() if name not in {"calls", "calls_omitted"}}
            row |= {"ended_at": event["occurred_at"], "completion_data": kept}
            row |= {name: says.get(name) for name in ("title", "error", "error_type")}
            row |= {name: data.get(name, 0) for name in USED}
            row["usage"] = {
                (kind, name, *(tokens.get(token, 0) for token in TOKENS), tokens.get("cost_usd"))
                for kind in ("model", "caller")
                for name, tokens in data.get(f"token_usage_by_{kind}", {}).items()
            }
    return row


def thread_rows(rows: Rows) -> Iterator[str]:
    """The row of a thread is what its events say, and each change of its status says what it was before."""
    held = {active["thread_id"] for active in rows.active if active["holds"]}
    for thread_id in {run["thread_id"] for run in rows.runs.values()} - rows.threads.keys():
        yield f"thread {thread_id} has runs and no row"
    for thread_id, row in rows.threads.items():
        status, last = "idle", None
        for event in rows.of_thread[thread_id]:
            last = event["run_id"] if event["sequence"] == 1 else last
            if event["event_type"] == "thread_status_updated":
                said = event["payload"]
                if {said.get("previous", status), status} not in POSSIBLE or said["status"] == status:
                    what = f"at {event['position']} thread {thread_id} was {status}, and it says {said}:"
                    yield what + _around(rows, event)
                status = said["status"]
        if (row["status"], row["last_run_id"]) != (status, last):
            yield f"the row of thread {thread_id} is not what its events say: {row}, not {status} after {last}"
        if status == "busy" and thread_id not in held and rows.active:
            yield f"thread {thread_id} is busy, and nobody holds it"


def _around(rows: Rows, event: Row) -> str:
    """What happened on the thread of an event around it."""
    known = rows.of_thread[event["thread_id"]]
    place = known.index(event)
    names = ("position", "run_id", "event_type", "payload")
    return "".join(f"\n    {[one[name] for name in names]}"[:250] for one in known[max(0, place - 12) : place + 3])


def turns(rows: Rows) -> Iterator[str]:
    """One run at a time on a thread; runs that one caller started one after another run in that order."""
    for thread_id, events in rows.of_thread.items():
        running = None
        last: dict[str, int] = {}
        for event in events:
            run_id = event["run_id"]
            if event["event_type"] == "run_started":
                if running is not None:
                    yield f"run {run_id} starts on thread {thread_id} while run {running} has not ended"
                running = run_id
                asked = event["payload"].get("metadata", {})
                if asked.get("in_line"):
                    if asked["number"] < last.get(asked["caller"], 0):
                        yield f"run {run_id} overtook another of {asked['caller']} on thread {thread_id}"
                    last[asked["caller"]] = asked["number"]
            elif event["event_type"] in ENDS and running == run_id:
                running = None


def queue(rows: Rows) -> Iterator[str]:
    """The queue agrees with the log: one holder for each thread for which a run waits, and no run that has ended."""
    holders = Counter(active["thread_id"] for active in rows.active if active["holds"])
    for thread_id, count in holders.items():
        if count > 1:
            yield f"thread {thread_id} is held by {count} runs"
    for active in rows.active:
        run_id, state = active["run_id"], active["state"]
        status = rows.runs[run_id]["status"]
        if status not in STATUSES_OF_STATE.get(state, {"pending"}):
            yield f"run {run_id} is {state} in the queue and {status} in the log"
        if state == "pending" and not active["holds"] and active["thread_id"] not in holders:
            yield f"run {run_id} waits for thread {active['thread_id']}, which nobody holds"
    known = {active["run_id"] for active in rows.active}
    for run_id, run in rows.runs.items():
        if run["ended_at"] is None and run_id not in known and rows.active:
            yield f"run {run_id} is {run['status']}, and not in the queue"


def references(rows: Rows) -> Iterator[str]:
    """Labels, usage and idempotency keys belong to runs that exist; labels say what the metadata say."""
    labels: dict[str, set[tuple[str, Any]]] = defaultdict(set)
    for row in rows.labels:
        labels[row["run_id"]].add((row["key"], row["value"]))
    named = labels.keys() | {row["run_id"] for row in rows.usage} | set(rows.keys.values())
    for run_id in named - rows.runs.keys():
        yield f"there is something of run {run_id}, and not the run"
    for run_id, run in rows.runs.items():
        metadata = json.loads(run["metadata"])
        plain = {
            (key, json.dumps(value, ensure_ascii=False))
            for key, value in metadata.items()
            if isinstance(value, str | int | None)
        }
        if labels[run_id] != plain:
            yield f"run {run_id} has the labels {labels[run_id]}, and its metadata are {metadata}"


def _places(run: Row) -> list[tuple[Any, ...]]:
    seconds = int(datetime.fromisoformat(run["created_at"]).timestamp())
    return [(period, seconds // period, run["agent"] or "", run["status"]) for period in PERIODS]


def _price(cost_usd: float | None) -> tuple[int, int]:
    return (0, 0) if cost_usd is None else (1, round(cost_usd * 1e9))


type _Sums = dict[tuple[Any, ...], tuple[int, ...]]


def _add(sums: _Sums, key: tuple[Any, ...], amounts: Sequence[int]) -> None:
    sums[key] = tuple(map(sum, zip(sums[key], amounts, strict=True))) if key in sums else tuple(amounts)


def _compared(what: str, found: _Sums, expected: _Sums) -> Iterator[str]:
    """Compare sums: a row of nothing but zeros, as removed runs leave it, counts as none."""
    found = {key: amounts for key, amounts in found.items() if any(amounts)}
    for key in {key for key, _ in found.items() ^ expected.items()}:
        yield f"the {what} of {key} are {found.get(key)}, and the runs come to {expected.get(key)}"


def run_sums(rows: Rows) -> Iterator[str]:
    """The sums over runs are what the runs add up to."""
    expected: _Sums = {}
    for run in rows.runs.values():
        if run["ended_at"] is not None:
            for place in _places(run):
                _add(expected, place, (1, *(run[name] for name in USED), *_price(run["cost_usd"])))
    key, amounts = ("seconds", "start", "agent", "status"), ("runs", *USED, "priced_runs", "cost_nanousd")
    yield from _compared("run_totals", rows.sums("run_totals", key, amounts), expected)


def duration_sums(rows: Rows) -> Iterator[str]:
    """The counts of durations are what the runs add up to: each power of two has 32 bins."""
    expected: _Sums = {}
    for run in rows.runs.values():
        if (duration := run["duration_seconds"]) is not None:
            floor = math.floor(math.log2(duration)) if duration >= 2**-20 else None
            bin_ = -640 if floor is None else (floor + 1) * 32 + int((duration / 2.0**floor - 1) * 32)
            for place in _places(run):
                _add(expected, (*place, bin_), (1,))
    key = ("seconds", "start", "agent", "status", "bin")
    yield from _compared("duration_totals", rows.sums("duration_totals", key, ("runs",)), expected)


def usage_sums(rows: Rows) -> Iterator[str]:
    """The sums over usage are what the runs add up to."""
    expected: _Sums = {}
    for row in rows.usage:
        for place in _places(rows.runs[row["run_id"]]):
            amounts = (1, *(row[name] for name in TOKENS), *_price(row["cost_usd"]))
            _add(expected, (*place, row["kind"], row["name"]), amounts)
    key, amounts = (
        ("seconds", "start", "agent", "status", "kind", "name"),
        ("runs", *TOKENS, "priced_runs", "cost_nanousd"),
    )
    yield from _compared("usage_totals", rows.sums("usage_totals", key, amounts), expected)


def unfinished(rows: Rows) -> Iterator[str]:
    """Nothing is left of what was under way."""
    for active in rows.active:
        yield f"run {active['run_id']} is still {active['state']} in the queue of thread {active['thread_id']}: {active}"
    for run_id, run in rows.runs.items():
        if run["ended_at"] is None:
            yield f"run {run_id} is {run['status']} for ever"
    for thread_id, row in rows.threads.items():
        if row["status"] == "busy":
            yield f"thread {thread_id} is busy for ever"


def broken_words(rows: Rows, told: Told) -> Iterator[str]:
    """What was acknowledged is in the log unchanged; what was told of runs is true."""
    stored = {event["event_id"]: event for event in rows.events}
    for event_id, digest in told.events.items():
        if event_id not in stored:
            yield f"event {event_id} was acknowledged, and is lost"
        elif digest_of(stored[event_id]["payload"]) != digest:
            yield f"event {event_id} is not as it was acknowledged"
    for event_id, position in told.positions.items():
        if event_id in stored and stored[event_id]["position"] != position:
            yield f"event {event_id} is at {stored[event_id]['position']}, and was acknowledged at {position}"
    for run_id in told.admitted:
        if run_id not in rows.runs:
            yield f"run {run_id} was let in, and is lost"
    for run_id, count in Counter(told.begun).items():
        if count > 1:
            yield f"run {run_id} was executed {count} times"
        if run_id not in rows.runs or rows.runs[run_id]["started_at"] is None:
            yield f"run {run_id} was executed, and its start is not in the log"
    for run_id, status in told.ended.items():
        if run_id not in rows.runs or rows.runs[run_id]["status"] != status:
            yield f"run {run_id} was told to have ended as {status}: {rows.runs.get(run_id)}"
    for key, run_id in told.keys.items():
        if rows.keys.get(key) != run_id:
            yield f"key {key} was told to name run {run_id}, and names {rows.keys.get(key)}"
    for run_id, run in rows.runs.items():
        if run["error_type"] == "worker_lost" and run["started_at"] is None and run["agent"] != "unnamed":
            yield f"run {run_id} had not started, another process could have executed it, and it is lost"
