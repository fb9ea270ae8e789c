"""Refuses what a run asks for and its agent does not have, so that nothing is ignored without a word."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.types import RunSpec

_OF_GRAPHS = ("interrupt_before", "interrupt_after", "durability")


def check_modes(run: RunContext, known: AbstractSet[str], who: str) -> None:
    """See that `who`, an agent of some kind, streams what the run's followers want.

    Raises:
        InvalidSpecError: it streams only what is `known`.
    """
    if unknown := run.stream_modes - known:
        why = f"{who} streams {', '.join(sorted(known))}"
        raise InvalidSpecError(field="stream_mode", value=sorted(unknown), why=why)


def check_no_graph_options(run: RunContext | RunSpec, why: str) -> None:
    """See that a run whose agent is no graph asks for nothing that only graphs have.

    Raises:
        InvalidSpecError: it does; `why` says why that cannot be had.
    """
    for field in _OF_GRAPHS:
        if (value := getattr(run, field)) is not None:
            raise InvalidSpecError(field=field, value=value, why=why)
