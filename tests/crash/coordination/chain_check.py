"""What has to hold of attempts at runs, and of what threads remember, whatever died; from outside, as in `log_check`.

    assert_chained("sqlite:///runs.db", "runs.db")

The second file is the one in which LangGraph keeps threads.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from log_check import look_into

type Row = dict[str, Any]

_COLUMNS = "run_id, thread_id, agent, status, error_type, attempt, retry_of, request"


class Chains:
    """Runs with their attempts, how they began and ended, and what their threads remember."""

    def __init__(self, database: Any) -> None:
        names = _COLUMNS.split(", ")
        found = database.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY created_at, run_id").fetchall()
        self.runs = {row[0]: dict(zip(names, row, strict=True)) for row in found}
        for run in self.runs.values():
            run["request"] = json.loads(run["request"] or "{}")
        self.said: dict[str, Row] = defaultdict(dict)
        """The payloads of each run's first and last event, under "start" and "end"."""
        query = "SELECT run_id, event_type, payload FROM events WHERE event_type LIKE 'run_%' ORDER BY position"
        for run_id, event_type, payload in database.execute(query).fetchall():
            self.said[run_id]["start" if event_type == "run_started" else "end"] = json.loads(payload)
        remembered = database.execute("SELECT thread_id, remembered FROM thread_states").fetchall()
        self.remembered = {thread_id: json.loads(values) for thread_id, values in remembered}


def assert_chained(url: str, graphs: str) -> None:
    """Assert that nothing is wrong with the attempts at runs and with what their threads remember."""
    wrong = found_wrong(url, graphs)
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:20]])


def found_wrong(url: str, graphs: str) -> list[str]:
    """What is wrong, a sentence each."""
    with look_into(url) as database:
        chains = Chains(database)
    return [*attempts(chains), *counts(chains), *graph_threads(chains, graphs)]


def attempts(chains: Chains) -> Iterator[str]:
    """Attempts count 1, 2, 3 …; each continues the one before, which says so; no attempt is continued by two."""
    for run_id, times in Counter(run["retry_of"] for run in chains.runs.values() if run["retry_of"]).items():
        if times > 1:
            yield f"run {run_id} was started anew {times} times"
    for run_id, run in chains.runs.items():
        allowed = run["request"].get("max_attempts") or 1
        said = chains.said[run_id]
        end = said.get("end", {})
        goes_on_as = end.get("retried_as")
        if goes_on_as is not None and chains.runs.get(goes_on_as, {}).get("retry_of") != run_id:
            yield f"run {run_id} says that it goes on as {goes_on_as}, which does not"
        if run["attempt"] > allowed:
            yield f"run {run_id} is attempt {run['attempt']} of {allowed}"
        lost = run["error_type"] == "worker_lost" or end.get("cancel_mode") == "shutdown"
        if lost and run["attempt"] < allowed and goes_on_as is None:
            yield f"run {run_id} was lost at attempt {run['attempt']} of {allowed}, and does not go on"
        if "start" in said and (said["start"].get("attempt", 1), said["start"].get("retry_of")) != (
            run["attempt"],
            run["retry_of"],
        ):
            yield f"run {run_id} started as {said['start']}, and is attempt {run['attempt']} of {run['retry_of']}"
        if run["retry_of"] is not None:
            yield from _follows(run, chains)
        elif run["attempt"] != 1:
            yield f"run {run_id} is attempt {run['attempt']} of nothing"


def _follows(run: Row, chains: Chains) -> Iterator[str]:
    before = chains.runs[run["retry_of"]]
    same = ("thread_id", "agent")
    if run["attempt"] != before["attempt"] + 1 or any(run[name] != before[name] for name in same):
        yield f"{run} does not go on for {before}"
    if chains.said[before["run_id"]].get("end", {}).get("retried_as") != run["run_id"]:
        yield f"run {run['run_id']} goes on for {before['run_id']}, whose end does not say so"


def counts(chains: Chains) -> Iterator[str]:
    """A run that succeeded at counting is counted once; one that was lost, or is about to end, may be."""
    of_thread: dict[str, Counter[str]] = defaultdict(Counter)
    for run in chains.runs.values():
        if run["agent"] == "counts":
            of_thread[run["thread_id"]][run["error_type"] or run["status"]] += 1
    for thread_id, ends in of_thread.items():
        count = chains.remembered.get(thread_id, {}).get("count", 0)
        if not ends["success"] <= count <= ends["success"] + ends["worker_lost"] + ends["running"]:
            yield f"thread {thread_id} remembers {count}, and its runs ended as {ends}"


def graph_threads(chains: Chains, graphs: str) -> Iterator[str]:
    """A graph's thread has all steps of a run that succeeded, in order, and nothing of a run that was rolled back.

    An attempt goes on from where the one before was, and begins anew only where that one had finished.
    """
    of_thread: dict[str, list[Row]] = defaultdict(list)
    for run in chains.runs.values():
        if run["agent"] == "graph":
            of_thread[run["thread_id"]].append(run)
    with SqliteSaver.from_conn_string(graphs) as saver:
        for thread_id, runs in of_thread.items():
            found = saver.get_tuple({"configurable": {"thread_id": thread_id}})
            done = [] if found is None else found.checkpoint["channel_values"].get("done", [])
            for run in runs:
                steps = [f"{run['request']['input']['input']} {step}" for step in ("first", "second")]
                there = [step for step in done if step in steps]
                tries = max(1, min(len(there) // len(steps), run["attempt"]))
                if run["status"] == "success" and there != steps * tries:
                    yield f"run {run['run_id']} succeeded, and thread {thread_id} has {done}"
                mode = chains.said[run["run_id"]].get("end", {}).get("cancel_mode")
                if run["status"] == "cancelled" and mode == "rollback" and there:
                    yield f"run {run['run_id']} was rolled back, and thread {thread_id} has {done}"
