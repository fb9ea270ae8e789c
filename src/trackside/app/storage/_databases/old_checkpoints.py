"""What LangGraph's own savers have left in this database: tables of theirs, from which threads move into ours.

A thread moves as a whole and in one transaction, when it is first used; then it is in one place only, so that nothing of it
comes back after it has been changed or removed. Its bytes stay as they are: our serializer reads what LangGraph's has
written, and JSON is one of its encodings. The values inside old checkpoints also get rows of their own, for checkpoints
that come after them and still have those values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, bindparam, inspect, text

from trackside.app.storage._databases.session import Session
from trackside.app.storage._rows.graph_checkpoint_rows import ValueRow
from trackside.app.storage._rows.graph_checkpoint_tables import GRAPH_CHECKPOINT, GRAPH_VALUE, GRAPH_WRITE

_TABLES = {"checkpoints", "writes", "checkpoint_blobs", "checkpoint_writes"}
_BESIDE = {"checkpoint_migrations", "store", "store_migrations", "store_vectors", "vector_migrations"}
_IS_LEFT = "SELECT 1 FROM checkpoints WHERE thread_id = :thread_id LIMIT 1"
_PLACE = {"thread_id", "checkpoint_ns", "checkpoint_id"}

type SplitCheckpoint = Callable[[str, str, tuple[str, bytes]], Iterable[ValueRow]]
"""Takes a thread, a namespace and an encoded checkpoint, and gives the values that are inside it."""


@dataclass(frozen=True, slots=True)
class OldTables:
    """The tables of one of LangGraph's savers."""

    statements: tuple[str, ...]
    """What moves a thread, in this order."""
    bodies: str
    """What reads the checkpoints of a thread."""

    def move(self, session: Session, thread_id: str) -> bool:
        """Move what is left of a thread, unless that was done; what our tables already have of it takes precedence."""
        if not session.execute(text(_IS_LEFT).bindparams(thread_id=thread_id)):
            return False
        for statement in self.statements:
            session.execute(text(statement).bindparams(thread_id=thread_id))
        remove_old(session, [thread_id])
        return True

    def values(self, connection: Connection, thread_id: str, split: SplitCheckpoint) -> list[ValueRow]:
        """The values that are inside a thread's checkpoints, each version once."""
        values: dict[tuple[str, ...], ValueRow] = {}
        for namespace, encoding, body in connection.execute(text(self.bodies), {"thread_id": thread_id}):
            for value in split(thread_id, namespace, (encoding, body)):
                values.setdefault(value[:4], value)
        return [*values.values()]

    def has(self, connection: Connection, thread_id: str) -> bool:
        """Whether there is anything of a thread."""
        return connection.execute(text(_IS_LEFT), {"thread_id": thread_id}).first() is not None

    def some_threads(self, connection: Connection, limit: int) -> list[str]:
        """At most `limit` of the threads that are left."""
        query = text("SELECT DISTINCT thread_id FROM checkpoints LIMIT :limit")
        return [*connection.scalars(query, {"limit": limit})]


def remove_old(session: Session, thread_ids: Collection[str]) -> None:
    """Remove what LangGraph's savers have left of threads, in whichever of their tables there are."""
    for table in sorted(_TABLES & session.tables_with("checkpoint_ns")):
        statement = text(f"DELETE FROM {table} WHERE thread_id IN :thread_ids")  # a name of LangGraph's
        these: BindParameter[str] = bindparam("thread_ids", [*thread_ids], expanding=True)
        session.execute(statement.bindparams(these))


def tables_of_others(connection: Connection, tables: Collection[str]) -> list[str]:
    """Which of these are neither LangGraph's nor the database's own; all, if no saver of LangGraph's has been used here."""
    found = {name for name in tables if not name.startswith("sqlite_")}
    are_left = "checkpoints" in found and old_tables(connection) is not None
    return sorted(found - _TABLES - _BESIDE if are_left else found)


def old_tables(connection: Connection) -> OldTables | None:
    """The tables that there are; None if no saver of LangGraph's has ever been used here."""
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
    """A checkpoint has all its values in its bytes, and keeps them there."""
    bodies = "SELECT checkpoint_ns, coalesce(type, 'msgpack'), checkpoint FROM checkpoints WHERE thread_id = :thread_id"
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
    return OldTables((checkpoints, writes) if has_writes else (checkpoints,), bodies)


def _of_postgres(task_path: str) -> OldTables:
    """Values are in a table of their own, as ours are, except for texts; the rest is JSON."""
    bodies = """
        SELECT checkpoint_ns, 'json', convert_to(checkpoint::text, 'UTF8') FROM checkpoints WHERE thread_id = :thread_id"""
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
    return OldTables((*escaped,), bodies.replace("::", r"\:\:"))
