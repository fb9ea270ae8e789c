"""How a reader can tell that the log is still the one that it has read.

A database can lose its last commits while the processes that use it live on: a failover to a replica that was behind, a
crash of a server whose commits do not wait for the disk. Then the positions of the lost events are given again, to
others. So a reader that remembers how far it was also remembers which event was there, and goes back if it is another
one now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, select

from trackside.app.storage._databases.growth import LOG_END, log_end
from trackside.app.storage._rows.tables import events


class Landmark(NamedTuple):
    """A place in the log as it was read: a position, and the id of its event; None says only that the log was so long."""

    position: int
    event_id: str | None = None

    def is_lost(self, end: int, event_id: str | None) -> bool:
        """Whether the log, which ends at `end` and has `event_id` here (None: pruned), is another one now."""
        return end < self.position or (None not in (event_id, self.event_id) and event_id != self.event_id)


class Sight(NamedTuple):
    """What is seen of the log: where it ends, and whether it is not the one in which a landmark was taken."""

    end: Landmark
    is_other: bool


def look_for(landmark: Landmark | None) -> Select[int, str | None, str | None]:
    """The query for the row that `sight_of` needs."""
    position = 0 if landmark is None else landmark.position
    return select(LOG_END, _event_id_at(LOG_END), _event_id_at(position))


def sight_of(landmark: Landmark | None, row: Sequence[Any]) -> Sight:
    """What is seen of the log by the row that `look_for` this landmark gives."""
    end, last_id, event_id = row
    return Sight(Landmark(end, last_id), landmark is not None and landmark.is_lost(end, event_id))


def _event_id_at(position: int | ColumnElement[int]) -> ColumnElement[str | None]:
    return select(events.c.event_id).where(events.c.position == position).scalar_subquery()


def landmarks(connection: Connection, start: int, through: int) -> list[Landmark]:
    """The events after a position and up to another one, in order."""
    places = select(events.c.position, events.c.event_id).where(events.c.position.between(start + 1, through))
    return [Landmark(*row) for row in connection.execute(places.order_by(events.c.position))]


def last_common(connection: Connection, known: Sequence[Landmark]) -> int:
    """The last position up to which the log is the one that was read, as far as can be told.

    Args:
        connection: to the database.
        known: what was read, in order; if none of it is there any more, the position before it is returned.
    """
    end = log_end(connection)
    if not known:
        return end
    common = known[0].position - 1
    there = dict(landmarks(connection, common, known[-1].position))
    for position, event_id in known:
        if (found := there.get(position)) == event_id:
            common = position
        elif found is not None:  # what is the same after this was written once more, as from a spool
            break
    return min(end, common)
