"""What came of an ordeal, and what is wrong: the checker's word, what it is about, and the evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delivery_check import Outcome, Promise, Sample, events_of
from delivery_check import found_wrong as wrong_deliveries
from delivery_receivers import Arrival, event_in
from fleet_check import Counts, Words, look_over
from log_check import look_into
from tests.torture.receiver import arrivals
from tests.torture.systems import System

ENDS: Final = frozenset({"run_completed", "run_failed", "run_cancelled"})
TOLD: Final = "told"
"""The subscription of the webhook that is told of all ends."""
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MOST: Final = 20  # lines and rows of a finding
_DOCUMENTED: Final = 100  # findings; those after them are only sentences, as thousands are mostly one


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong, and the evidence of the run or thread that it is about."""

    what: str
    ids: Sequence[str] = ()
    told: Sequence[str] = ()
    """What clients were told of it."""
    journal: Sequence[str] = ()
    """What agents did for it."""
    rows: Sequence[Mapping[str, Any]] = ()
    """What the log has about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The counts of a system's work, and the findings."""

    counts: Counts
    acknowledged_events: int
    """Events of which somebody was told that they are stored: users of the library, and receivers of webhooks."""
    webhooks: int
    duplicate_webhooks: int
    findings: Sequence[Finding]


def judge(system: System, told: Sequence[Path], arrived: Path, samples: Mapping[str, Sequence[Sample]]) -> Judgement:
    """Look at everything that a system at rest has left."""
    words = Words.read(told)
    got = arrivals(arrived)
    bodies = [json.loads(one["body"]) for one in got if one["path"] == "/hook"]
    counts, wrong = look_over(system.url, system.journal, words, bodies)
    events = [Arrival(one["at"], one["id"], one["body"]) for one in got if one["path"] == f"/{TOLD}"]
    wrong += deliveries(system.url, events, samples, words)
    return Judgement(
        counts=counts,
        acknowledged_events=len({*words.events, *(event.event_id for event in events)}),
        webhooks=len(got),
        duplicate_webhooks=len(events) - len({event.event_id for event in events}),
        findings=[*findings(system, told, wrong)],
    )


def deliveries(
    url: str, events: Sequence[Arrival], samples: Mapping[str, Sequence[Sample]], words: Words
) -> Iterator[str]:
    """I25, I26, I28: what has to hold of the webhooks' subscriptions."""
    for name, taken in samples.items():
        cursors = [sample.cursor for sample in taken]
        if cursors != sorted(cursors):
            yield f"the cursor of {name} went back: {cursors}"
    if TOLD not in samples:
        yield f"there is no subscription {TOLD}"
        return
    in_log = events_of(url)
    known = {event.event_id for event in in_log}
    gone = words.deleted | words.unsure  # along with what the log had of them
    kept = [one for one in events if one.event_id in known or event_in(one.body)["thread_id"] not in gone]
    yield from wrong_deliveries(Promise(types=ENDS), in_log, Outcome(arrivals=kept, samples=samples[TOLD]))


def findings(system: System, told: Sequence[Path], wrong: Sequence[str]) -> Iterator[Finding]:
    """Each thing that is wrong, the first of them with the evidence."""
    lines = [f"{path.name}: {line}" for path in told for line in path.read_text("utf-8").splitlines()] if wrong else []
    entries = [str(entry) for entry in system.journal.entries()] if wrong else []
    of_lines = [{*_ID.findall(line)} for line in lines]
    of_entries = [{*_ID.findall(entry)} for entry in entries]
    for what in wrong[:_DOCUMENTED]:
        ids = [*dict.fromkeys(_ID.findall(what))][:3]
        rows = _rows(system.url, ids)
        threads = {one["thread_id"] for one in rows}
        own = [one for one in ids if one not in threads] or ids
        yield Finding(
            what=what,
            ids=ids,
            told=nearest(lines, of_lines, ids, own),
            journal=nearest(entries, of_entries, ids, own),
            rows=nearest(rows, [{one["run_id"], one["thread_id"]} for one in rows], ids, own),
        )
    yield from (Finding(what=what) for what in wrong[_DOCUMENTED:])


def nearest[T](all_of_it: Sequence[T], named: Sequence[set[str]], ids: Sequence[str], own: Sequence[str]) -> list[T]:
    """Of what names one of these ids, that which names one of `own`, then what is nearest to it, in the given order."""
    about = [place for place, some in enumerate(named) if some & {*ids}]
    kept = [rank for rank, place in enumerate(about) if named[place] & {*own}][:_MOST]
    near = sorted(range(len(about)), key=lambda rank: min((abs(rank - one) for one in kept), default=rank))
    return [all_of_it[about[rank]] for rank in sorted(near[:_MOST])]


def _rows(url: str, ids: Sequence[str]) -> list[dict[str, str]]:
    """What the log has on these runs and threads."""
    if not ids:
        return []
    some = ", ".join(f"'{one}'" for one in ids)
    names = ("position", "run_id", "thread_id", "sequence", "event_type", "occurred_at", "payload")
    sql = f"SELECT {', '.join(names)} FROM events WHERE run_id IN ({some}) OR thread_id IN ({some}) ORDER BY position"
    with look_into(url) as database:
        rows = database.execute(sql).fetchall()
    return [dict(zip(names, map(str, row), strict=True)) for row in rows]
