"""Writes docs/reference/metrics.md: every metric, as the observer defines it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blocks import DOCS

from trackside.app.observers.metrics.definitions import DEFINITIONS, Definition, Source

_BEGINNING: Final = """# Every metric

This page lists every metric that the observer `metrics` has for Prometheus. It is made from their definitions.
[Metrics for Prometheus](../observers/metrics.md) says how to expose them, see them, and be told when something is
wrong.
"""
_ABOUT: Final = {
    Source.events: (
        "From events",
        """Each process counts these from the events of the runs that end there. All totals start at 0 with the process.
A series of a `model`, of an `error_type` or of durations exists from its first value on; `rate` and `increase` leave
that value out.""",
    ),
    Source.vitals: ("From the app", "Read from the app when Prometheus asks."),
}


def documents() -> dict[Path, str]:
    """The page."""
    parts = [_BEGINNING]
    for source, (title, about) in _ABOUT.items():
        parts += [
            f"## {title}\n",
            f"{about}\n",
            "| metric | type | labels | unit | series | |",
            "|---|---|---|---|---|---|",
        ]
        parts += [*_rows(definition for definition in DEFINITIONS if definition.source is source), ""]
    return {DOCS / "reference" / "metrics.md": "\n".join(parts).rstrip() + "\n"}


def _rows(definitions: Iterator[Definition]) -> Iterator[str]:
    for one in definitions:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        series = ", ".join(f"`{name.removeprefix(one.name)}`" for name in one.series if name != one.name)
        yield f"| `{one.name}` | {one.kind} | {labels} | {one.unit} | {series} | {one.help} |"
