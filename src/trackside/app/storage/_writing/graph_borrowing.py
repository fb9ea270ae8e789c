"""What checkpoints have from those before them: it is there when they are written, even if it was removed meanwhile.

A put brings the values that are new. Its run has loaded or put the others before, and until it puts the next
checkpoint, no row says that it still has them: a removal frees them. So removals are counted in the database, and a
transaction that saves checkpoints learns the count without asking for it. Only if that differs from the count at which
the values were known to be there are they looked for, and those that are gone are written once more.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sqlalchemy import select, tuple_

from trackside.app.storage._databases.session import Changes, Session
from trackside.app.storage._rows.graph_checkpoint_rows import Borrowing, GraphRows, ValueRow
from trackside.app.storage._rows.graph_checkpoint_tables import graph_values

logger = logging.getLogger("trackside.storage")


def bring_missing(session: Session, graph: GraphRows) -> None:
    """Write what these checkpoints have from others and is not there any more; they themselves are saved by now."""
    if not graph.borrowings:
        return
    removals = session.graph_removals()
    doubtful: list[Borrowing] = []
    for one in graph.borrowings:
        one.removals = removals
        if one.borrowed and one.known.removals != removals:
            doubtful.append(one)
    if doubtful:
        session.save(Changes(graph_values=[*_missing(session, doubtful)]))


def _missing(session: Session, borrowings: Sequence[Borrowing]) -> Iterator[ValueRow]:
    by_place: defaultdict[tuple[str, str], dict[tuple[str, str], Borrowing]] = defaultdict(dict)
    for one in borrowings:
        by_place[one.thread_id, one.namespace].update(dict.fromkeys(one.borrowed.items(), one))
    columns = graph_values.c
    for (thread_id, namespace), wanted in by_place.items():
        found = session.execute(
            select(columns.channel, columns.version).where(
                columns.thread_id == thread_id,
                columns.namespace == namespace,
                tuple_(columns.channel, columns.version).in_([*wanted]),
            )
        )
        for key in wanted.keys() - {(channel, version) for channel, version in found}:
            try:
                yield wanted[key].make(key[0])
            except Exception:  # a user's object: only its own checkpoint may suffer, as one that lacks a value
                logger.exception("thread %r cannot be given back what it had in %s", thread_id, key[0])
