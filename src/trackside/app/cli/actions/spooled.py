"""Says on standard error what was kept beside a database that would not take it, and what became of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trackside.app.cli.formatting import count
from trackside.app.cli.views.output import standard_error
from trackside.app.spool import DAMAGED_FILE, REFUSED_FILE
from trackside.app.wiring.recorder import Recorder
from trackside.harness.foreign.failures import line_of


def say_what_is_spooled(recorder: Recorder, run_id: str) -> None:
    """Say how the end of this run was kept or that it is lost, and what became of what earlier runs had left."""
    for line in _lines(recorder, run_id):
        standard_error().print(line, soft_wrap=True)


def path_from_here(path: str) -> str:
    """The shortest way to write a path in the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _lines(recorder: Recorder, run_id: str) -> Iterator[str]:
    folder = path_from_here(str(recorder.spool_folder))
    earlier = recorder.delivered_at_start
    if earlier.delivered:
        yield f"what {folder} had kept of {count(earlier.delivered, 'earlier run')} is in the database now"
    if earlier.refused:
        yield (
            f"what {folder} had kept of {count(earlier.refused, 'earlier run')} does not fit what the database has by now;"
            f" it is in {folder}/{REFUSED_FILE}, with the reason"
        )
    if earlier.damaged:
        yield f"{count(earlier.damaged, 'record')} in {folder} could not be read, and is in {folder}/{DAMAGED_FILE} now"
    if recorder.spooled_in is not None:
        yield (
            f"how run {run_id} ended is not in the database yet, but kept in {folder};"
            " the next `trackside run` delivers it, once the database takes it again"
        )
    if recorder.not_spooled is not None:
        yield (
            f"how run {run_id} ended is lost: neither the database nor {folder} took it;"
            " the next `trackside run` records that its process went away (worker_lost)"
        )
        yield f"  the database: {line_of(recorder.failure)}"
        yield f"  {folder}: {line_of(recorder.not_spooled)}"
