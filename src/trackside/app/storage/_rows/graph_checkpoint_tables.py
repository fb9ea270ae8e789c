"""Where graphs keep their threads: tables of our own, under names that LangGraph's savers do not use.

A checkpoint is a row; the values of its channels are rows of their own, one for each version of a channel, so that what a
step leaves as it was is not written again. `refs` says which versions a checkpoint has, as a JSON object by channel; small
values are in its `body`. Bytes are what LangGraph's serializer made, stored beside the name of their `encoding`.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, LargeBinary, Table

from trackside.app.storage._rows.tables import GRAPH_REMOVALS, PlainText, metadata

graph_checkpoints = Table(
    "graph_checkpoints",
    metadata,
    Column("thread_id", PlainText, primary_key=True),
    Column("namespace", PlainText, primary_key=True),
    Column("checkpoint_id", PlainText, primary_key=True),
    Column("parent_id", PlainText),
    Column("run_id", PlainText),
    Column("refs", PlainText, nullable=False),
    Column("encoding", PlainText, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("metadata_encoding", PlainText, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""The states that a thread's graph was in, in order of their ids. `namespace` is that of a sub-graph, or empty."""

graph_values = Table(
    "graph_values",
    metadata,
    Column("thread_id", PlainText, primary_key=True),
    Column("namespace", PlainText, primary_key=True),
    Column("channel", PlainText, primary_key=True),
    Column("version", PlainText, primary_key=True),
    Column("encoding", PlainText, nullable=False),
    Column("value", LargeBinary, nullable=False),
)
"""What a channel has held, version by version."""

graph_writes = Table(
    "graph_writes",
    metadata,
    Column("thread_id", PlainText, primary_key=True),
    Column("namespace", PlainText, primary_key=True),
    Column("checkpoint_id", PlainText, primary_key=True),
    Column("task_id", PlainText, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("task_path", PlainText, nullable=False),
    Column("channel", PlainText, nullable=False),
    Column("encoding", PlainText, nullable=False),
    Column("value", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""What tasks of the step after a checkpoint have written; errors, questions and answers have negative places."""

COUNT_GRAPH_REMOVAL = f"""
    INSERT INTO counters (name, value) VALUES ('{GRAPH_REMOVALS}', 1)
    ON CONFLICT (name) DO UPDATE SET value = counters.value + 1"""  # noqa: S608  # a name of ours

OF_THREADS = (graph_checkpoints, graph_values, graph_writes)


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


GRAPH_CHECKPOINT = _names(graph_checkpoints)
GRAPH_VALUE = _names(graph_values)
GRAPH_WRITE = _names(graph_writes)
"""The columns, in the order in which rows are written."""

ON_SAME_CHECKPOINT = """
    ON CONFLICT (thread_id, namespace, checkpoint_id) DO UPDATE SET
        parent_id = excluded.parent_id, run_id = excluded.run_id, refs = excluded.refs,
        encoding = excluded.encoding, body = excluded.body,
        metadata_encoding = excluded.metadata_encoding, metadata = excluded.metadata"""
"""LangGraph puts a checkpoint once more under its id at the end of a run that writes only then."""

ON_SAME_WRITE = """
    ON CONFLICT (thread_id, namespace, checkpoint_id, task_id, place) DO UPDATE SET
        task_path = excluded.task_path, channel = excluded.channel,
        encoding = excluded.encoding, value = excluded.value
    WHERE excluded.place < 0"""
"""What a task has written stays, unless it is a write of which only the last one counts."""
