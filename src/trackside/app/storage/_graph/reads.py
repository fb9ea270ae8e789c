"""How checkpoints are read: each with its values and with what tasks wrote after it, in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, tuple_
from sqlalchemy import select as select_

from trackside.app.storage._databases.backend import Dialect
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.graph_checkpoint_rows import CheckpointRow
from trackside.app.storage._rows.graph_checkpoint_tables import GRAPH_CHECKPOINT, graph_checkpoints

type Encoded = tuple[str, bytes]
"""What LangGraph's serializer made of something, and the name of the encoding."""

_CHECKPOINT, _VALUE, _WRITE = range(3)
_VALUES: Final[Mapping[Dialect, str]] = {
    "sqlite": """
        json_each(t.refs) AS r CROSS JOIN graph_values v
        WHERE v.thread_id = t.thread_id AND v.namespace = t.namespace AND v.channel = r.key AND v.version = r.value""",
    "postgresql": """
        json_each_text(CAST(t.refs AS json)) AS r CROSS JOIN LATERAL (
            SELECT * FROM graph_values w
            WHERE w.thread_id = t.thread_id AND w.namespace = t.namespace AND w.channel = r.key AND w.version = r.value
            LIMIT 1
        ) v""",
}
"""The values of a checkpoint, each found by its key: nothing else that the thread has ever had is looked at."""


class StoredWrite(NamedTuple):
    """What a task has written; it sorts in the order in which LangGraph applies writes."""

    task_path: str
    task_id: str
    place: int
    channel: str
    encoded: Encoded


@dataclass(slots=True)
class StoredCheckpoint:
    """A checkpoint as it was stored."""

    row: CheckpointRow
    values: dict[str, Encoded] = field(default_factory=dict)
    writes: list[StoredWrite] = field(default_factory=list)
    removals: int | None = None
    """How much had been removed, as far as was known, before it was read."""

    def lacking(self) -> list[str]:
        """The channels whose values should be there but are not."""
        return [channel for channel in json_of(self.row.refs) if channel not in self.values]


def _reading(target: str, dialect: Dialect) -> str:
    """The statement that reads all of the checkpoints that `target` selects, as rows of three kinds.

    To SQLite, CROSS JOIN means a join that is done in this order.
    """
    return f"""
        WITH t AS MATERIALIZED (SELECT {GRAPH_CHECKPOINT} FROM graph_checkpoints WHERE {target})
        SELECT {_CHECKPOINT} AS kind, thread_id, namespace, checkpoint_id, parent_id AS a, run_id AS b, refs AS c, 0 AS d,
            metadata_encoding, metadata, encoding, body AS value
        FROM t
        UNION ALL
        SELECT {_VALUE}, t.thread_id, t.namespace, t.checkpoint_id, v.channel, NULL, NULL, 0, NULL, NULL, v.encoding, v.value
        FROM t CROSS JOIN {_VALUES[dialect]}
        UNION ALL
        SELECT {_WRITE}, t.thread_id, t.namespace, t.checkpoint_id, w.task_id, w.task_path, w.channel, w.place,
            NULL, NULL, w.encoding, w.value
        FROM t CROSS JOIN graph_writes w
        WHERE w.thread_id = t.thread_id AND w.namespace = t.namespace AND w.checkpoint_id = t.checkpoint_id"""


def _in_each(target: str) -> Mapping[Dialect, str]:
    """The statement that reads what `target` selects, in the words of each database."""
    return {"sqlite": _reading(target, "sqlite"), "postgresql": _reading(target.replace("?", "$"), "postgresql")}


NEWEST: Final = _in_each("thread_id = ?1 AND namespace = ?2 ORDER BY checkpoint_id DESC LIMIT 1")
"""Reads the newest checkpoint of a thread and a namespace."""

ONE: Final = _in_each("thread_id = ?1 AND namespace = ?2 AND checkpoint_id = ?3")
"""Reads a checkpoint by its key."""


@lru_cache(maxsize=32)
def some(count: int) -> Mapping[Dialect, str]:
    """The statement that reads `count` checkpoints of a thread, whose namespaces and ids follow the thread in turns."""
    pairs = (f"(namespace = ?{place} AND checkpoint_id = ?{place + 1})" for place in range(2, 2 * count + 2, 2))
    return _in_each(f"thread_id = ?1 AND ({' OR '.join(pairs)})")


class Listed(NamedTuple):
    """A checkpoint in a list, before it is read."""

    namespace: str
    checkpoint_id: str
    metadata: Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which checkpoints of a thread are wanted, the newest first. None: any."""

    thread_id: str
    namespace: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None

    def page(self, connection: Connection, after: Listed | None, limit: int) -> list[Listed]:
        """The next of them."""
        columns = graph_checkpoints.c
        order = (columns.checkpoint_id, columns.namespace)
        query = (
            select_(columns.namespace, columns.checkpoint_id, columns.metadata_encoding, columns.metadata)
            .where(columns.thread_id == self.thread_id)
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if self.namespace is not None:
            query = query.where(columns.namespace == self.namespace)
        if self.checkpoint_id is not None:
            query = query.where(columns.checkpoint_id == self.checkpoint_id)
        if self.before is not None:
            query = query.where(columns.checkpoint_id < self.before)
        if after is not None:
            query = query.where(tuple_(*order) < tuple_(after.checkpoint_id, after.namespace))
        return [Listed(row[0], row[1], (row[2], row[3])) for row in connection.execute(query)]


def next_thread(connection: Connection, after: str) -> str | None:
    """The first thread after this one that has checkpoints."""
    threads = graph_checkpoints.c.thread_id
    return connection.scalar(select_(threads).where(threads > after).order_by(threads).limit(1))


def of_runs(connection: Connection, run_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """The keys of all checkpoints that these runs have made. This looks at all checkpoints."""
    columns = graph_checkpoints.c
    query = select_(columns.thread_id, columns.namespace, columns.checkpoint_id).where(columns.run_id.in_(run_ids))
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def keys_of(connection: Connection, thread_id: str) -> list[tuple[str, str, str]]:
    """The keys of all checkpoints of a thread, by namespace, and each namespace's newest first."""
    columns = graph_checkpoints.c
    query = (
        select_(columns.thread_id, columns.namespace, columns.checkpoint_id)
        .where(columns.thread_id == thread_id)
        .order_by(columns.namespace, columns.checkpoint_id.desc())
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def assembled(rows: Sequence[tuple[Any, ...]]) -> list[StoredCheckpoint]:
    """The checkpoints that were read."""
    found = {
        row[1:4]: StoredCheckpoint(
            CheckpointRow(row[1], row[2], row[3], row[4], row[5], row[6], row[10], row[11], row[8], row[9])
        )
        for row in rows
        if row[0] == _CHECKPOINT
    }
    for row in rows:
        if row[0] == _VALUE:
            found[row[1:4]].values[row[4]] = (row[10], row[11])
        elif row[0] == _WRITE:
            found[row[1:4]].writes.append(StoredWrite(row[5], row[4], row[7], row[6], (row[10], row[11])))
    for one in found.values():
        one.writes.sort(key=lambda write: write[:3])
    return [*found.values()]
