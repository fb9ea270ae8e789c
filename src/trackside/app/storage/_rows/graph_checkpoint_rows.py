"""Checkpoints as rows: what one put adds, and what the puts of a transaction come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class CheckpointRow(NamedTuple):
    """A row of `graph_checkpoints`."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    refs: str
    encoding: str
    body: bytes
    metadata_encoding: str
    metadata: bytes


class ValueRow(NamedTuple):
    """A row of `graph_values`."""

    thread_id: str
    namespace: str
    channel: str
    version: str
    encoding: str
    value: bytes


class WriteRow(NamedTuple):
    """A row of `graph_writes`."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    task_id: str
    place: int
    task_path: str
    channel: str
    encoding: str
    value: bytes


@dataclass(slots=True, eq=False)
class Known:
    """Which values a checkpoint has, by their channels and versions."""

    checkpoint_id: str
    refs: Mapping[str, str]
    """Those that have rows: each was there when the count of removals was `removals`."""
    inline: Mapping[str, str]
    """Those that are stored in the checkpoint itself."""
    removals: int | None = None
    """None: not known. If no more has been removed by now, they are there."""


@dataclass(slots=True, eq=False)
class Borrowing:
    """What a checkpoint has, and which of that its put does not bring, as it was stored with checkpoints before it.

    Whoever put the checkpoint has these values in memory, and can `make` their rows once more.
    """

    thread_id: str
    namespace: str
    borrowed: Mapping[str, str]
    known: Known
    make: Callable[[str], ValueRow]
    removals: int | None = None
    """The count of removals when the checkpoint was written and all that it has was there."""


class GraphRows:
    """Rows by key: no statement may have the same key twice; which row stays is up to the rules of the tables."""

    __slots__ = ("borrowings", "checkpoints", "values", "writes")

    def __init__(self) -> None:
        self.borrowings: list[Borrowing] = []
        self.checkpoints: dict[Any, CheckpointRow] = {}
        self.values: dict[Any, ValueRow] = {}
        self.writes: dict[Any, WriteRow] = {}

    def add(self, checkpoints: Iterable[CheckpointRow], values: Iterable[ValueRow], writes: Iterable[WriteRow]) -> None:
        """Take in what puts add, in their order."""
        for checkpoint in checkpoints:
            self.checkpoints[checkpoint[:3]] = checkpoint
        for value in values:
            self.values.setdefault(value[:4], value)
        for write in writes:
            if write.place < 0:
                self.writes[write[:5]] = write
            else:
                self.writes.setdefault(write[:5], write)
