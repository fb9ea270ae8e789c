"""What LangGraph's own savers have left in this database: tables of theirs, from which threads move into ours.

A thread moves as a whole and in one transaction, when it is first used; then it is in one place only, so that nothing of it
comes back after it has been changed or removed. Its bytes stay as they are: what LangGraph's serializer has written, ours
reads, and JSON is one of its encodings.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, bindparam, inspect, text

from trackside.app.storage._graph_checkpoint_tables import GRAPH_CHECKPOINT, GRAPH_VALUE, GRAPH_WRITE
from trackside.app.storage._session import Session

_PLACE = {"thread_id", "checkpoint_ns", "checkpoint_id"}


@dataclass(frozen=True, slots=True)
class OldTables:
    """Those of one of LangGraph's savers; `tables` are all that have rows of threads."""

    tables: tuple[str, ...]
    statements: tuple[str, ...]
    """What moves a thread, in this order."""

    def move(self, session: Session, thread_id: str) -> None:
        """Move what is left of a thread; what of it is in our tables already counts more."""
        for statement in self.statements:
            session.execute(text(statement).bindparams(thread_id=thread_id))
        self.remove(session, [thread_id])

    def remove(self, session: Session, thread_ids: Collection[str]) -> None:
        """Remove what is left of threads."""
        for table in self.tables:
            statement = text(f"DELETE FROM {table} WHERE thread_id IN :thread_ids")  # a name of LangGraph's
            these: BindParameter[str] = bindparam("thread_ids", [*thread_ids], expanding=True)
            session.execute(statement.bindparams(these))

    def has(self, connection: Connection, thread_id: str) -> bool:
        """Whether there is anything of a thread."""
        query = text("SELECT 1 FROM checkpoints WHERE thread_id = :thread_id LIMIT 1")
        return connection.execute(query, {"thread_id": thread_id}).first() is not None

    def some_threads(self, connection: Connection, limit: int) -> list[str]:
        """So many of the threads that are left."""
        query = text("SELECT DISTINCT thread_id FROM checkpoints LIMIT :limit")
        return [*connection.scalars(query, {"limit": limit})]


def old_tables(connection: Connection) -> OldTables | None:
    """Those that there are; None if no saver of LangGraph's has ever been used here."""
    inspector = inspect(connection)
    if not inspector.has_table("checkpoints"):
        return None
    columns = {column["name"] for column in inspector.get_columns("checkpoints")}
    if not columns >= _PLACE | {"parent_checkpoint_id", "checkpoint", "metadata"}:
        return None  # another program's
    if connection.dialect.name == "sqlite":
        has_writes = inspector.has_table("writes")
        task_path = has_writes and any(column["name"] == "task_path" for column in inspector.get_columns("writes"))
        return _of_sqlite(has_writes=has_writes, task_path="task_path" if task_path else "''")
    tables = ("checkpoint_writes", "checkpoint_blobs")
    if not all(map(inspector.has_table, tables)):
        return None
    task_path = any(column["name"] == "task_path" for column in inspector.get_columns("checkpoint_writes"))
    return _of_postgres("task_path" if task_path else "''")


def _of_sqlite(*, has_writes: bool, task_path: str) -> OldTables:
    """A checkpoint has all its values in its bytes, and stays like that."""
    checkpoints = f"""
        INSERT INTO graph_checkpoints ({GRAPH_CHECKPOINT})
        SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
            CASE WHEN json_valid(CAST(metadata AS TEXT)) THEN json_extract(CAST(metadata AS TEXT), '$.run_id') END,
            '{{}}', coalesce(type, 'msgpack'), checkpoint, 'json', CAST(coalesce(metadata, '{{}}') AS BLOB)
        FROM checkpoints WHERE thread_id = :thread_id ON CONFLICT DO NOTHING"""
    writes = f"""
        INSERT INTO graph_writes ({GRAPH_WRITE})
        SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, {task_path}, channel,
            coalesce(type, 'msgpack'), coalesce(value, x'')
        FROM writes WHERE thread_id = :thread_id ON CONFLICT DO NOTHING"""
    if not has_writes:
        return OldTables(("checkpoints",), (checkpoints,))
    return OldTables(("checkpoints", "writes"), (checkpoints, writes))


def _of_postgres(task_path: str) -> OldTables:
    """Values are in a table of their own, as ours are; the rest is JSON."""
    checkpoints = f"""
        INSERT INTO graph_checkpoints ({GRAPH_CHECKPOINT})
        SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata ->> 'run_id',
            (SELECT coalesce(json_object_agg(b.channel, b.version), '{{}}')::text
             FROM jsonb_each_text(c.checkpoint -> 'channel_versions') AS v (channel, version)
             JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
                AND b.channel = v.channel AND b.version = v.version AND b.type <> 'empty'),
            'json', convert_to(checkpoint::text, 'UTF8'), 'json', convert_to(metadata::text, 'UTF8')
        FROM checkpoints c WHERE thread_id = :thread_id ON CONFLICT DO NOTHING"""
    values = f"""
        INSERT INTO graph_values ({GRAPH_VALUE})
        SELECT thread_id, checkpoint_ns, channel, version, type, coalesce(blob, ''::bytea)
        FROM checkpoint_blobs WHERE thread_id = :thread_id AND type <> 'empty' ON CONFLICT DO NOTHING"""
    writes = f"""
        INSERT INTO graph_writes ({GRAPH_WRITE})
        SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, {task_path}, channel,
            coalesce(type, 'msgpack'), blob
        FROM checkpoint_writes WHERE thread_id = :thread_id ON CONFLICT DO NOTHING"""
    escaped = (statement.replace("::", r"\:\:") for statement in (checkpoints, values, writes))
    return OldTables(("checkpoints", "checkpoint_blobs", "checkpoint_writes"), (*escaped,))
