"""What every run of a manager works with, whoever implements it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from trackside.harness.items import ItemStore
from trackside.harness.ports import Clock, PriceList, RunCoordinator, RunStream, ThreadStates
from trackside.harness.redaction import Redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the app lends to every run. The coordinator is `steady`; `prices` and `redact` need not be there."""

    coordinator: RunCoordinator
    stream: RunStream
    states: ThreadStates
    clock: Clock
    checkpointer: Any = None
    items: ItemStore | None = None
    agents: Collection[str] = ()
    """The names of the agents that there are."""
    prices: PriceList | None = None
    redact: Redact | None = None
