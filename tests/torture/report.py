"""What came of the torture: on the screen, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.torture.ordeal import Result

_SHOWN: Final = 10
"""How many findings are shown; all are in the JSON."""


def as_json(results: Sequence[Result], seed: int, seconds: float) -> dict[str, Any]:
    """The whole report."""
    systems = [_system(result) for result in results]
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "is_sound": is_sound(results),
        "totals": totals(results),
        "systems": systems,
    }


def is_sound(results: Sequence[Result]) -> bool:
    """Whether there is no finding, and each enabled fault happened."""
    return bool(results) and not any(result.findings or result.missing for result in results)


def totals(results: Sequence[Result]) -> dict[str, Any]:
    """The counts of all systems together."""
    kills: Counter[str] = Counter()
    for result in results:
        kills.update(result.toll.kills)
    judged = [result.judgement for result in results if result.judgement is not None]
    return {
        "kills": kills.total(),
        "kills_by_kind": dict(sorted(kills.items())),
        "database_stops": sum(result.toll.stops for result in results),
        "network_cuts": sum(result.toll.cuts for result in results),
        "faults": sum(result.happened.total() for result in results),
        "acknowledged_runs": sum(one.counts.asked for one in judged),
        "acknowledged_events": sum(one.acknowledged_events for one in judged),
        "runs": sum(one.counts.runs for one in judged),
        "events": sum(one.counts.events for one in judged),
        "webhooks": sum(one.webhooks for one in judged),
        "lost": sum(one.counts.lost for one in judged),
        "executed_twice": sum(one.counts.doubles for one in judged),
        "double_terminals": sum(one.counts.double_ends for one in judged),
        "stuck_threads": sum(one.counts.stuck for one in judged),
        "findings": sum(len(result.findings) for result in results),
    }


def _system(result: Result) -> dict[str, Any]:
    judged = result.judgement
    return {
        "system": result.system,
        "seconds": round(result.seconds, 1),
        "faults": dict(result.happened),
        "skipped": result.skipped,
        "missing": result.missing,
        "kills": dict(result.toll.kills),
        "deaths_without_memory": result.toll.deaths,
        "turns_of_clients": dict(result.turns),
        "counts": None if judged is None else asdict(judged.counts),
        "acknowledged_events": None if judged is None else judged.acknowledged_events,
        "webhooks": None if judged is None else {"told": judged.webhooks, "again": judged.duplicate_webhooks},
        "findings": [asdict(finding) for finding in result.findings],
        "kept_in": None if result.kept is None else str(result.kept),
    }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines that the screen shows."""
    total = report["totals"]
    yield ""
    yield f"torture: {report['seconds']:.0f} s, seed {report['seed']}"
    for system in report["systems"]:
        faults = ", ".join(f"{name} {number}" for name, number in sorted(system["faults"].items()))
        yield f"  {system['system']:<9} {system['seconds']:.0f} s   {faults or 'no faults'}"
        for name, why in system["skipped"].items():
            yield f"            skipped {name}: {why}"
        for name in system["missing"]:
            yield f"            did not happen: {name}"
    yield ""
    names = {
        "kills": "SIGKILLs",
        "database_stops": "immediate database stops",
        "network_cuts": "network cuts",
        "acknowledged_runs": "acknowledged runs",
        "acknowledged_events": "acknowledged events",
        "webhooks": "webhooks",
        "lost": "lost",
        "executed_twice": "executed twice",
        "double_terminals": "double terminals",
        "stuck_threads": "stuck threads",
        "findings": "findings",
    }
    for key, name in names.items():
        more = ", ".join(f"{number} {kind}" for kind, number in _kinds(total)) if key == "kills" else ""
        yield f"  {name:<26}{total[key]:>8,}   {more}".rstrip()
    yield from _findings(report["systems"])


def _kinds(total: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Kills by victim; those at named points together."""
    by_kind: Counter[str] = Counter()
    for kind, number in total["kills_by_kind"].items():
        by_kind["at a named point" if kind.startswith("at ") else kind] += number
    yield from by_kind.most_common()


def _findings(systems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for system in systems:
        for finding in system["findings"][:_SHOWN]:
            yield ""
            yield f"FINDING on {system['system']}: {finding['what']}"
            for line in (*finding["told"][:_SHOWN], *finding["journal"][:_SHOWN]):
                yield f"    {line[:300]}"
            for row in finding["rows"][:_SHOWN]:
                yield f"    {json.dumps(row)[:300]}"
        if system["kept_in"] is not None:
            yield f"All of it, with databases and logs, is in {system['kept_in']}"


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report to a file."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
