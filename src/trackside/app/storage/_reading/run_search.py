"""Runs found by their texts, cost or duration: looked at one by one from where a page begins, up to a fixed number.

No index covers this, and one for each of these would slow down writers. So a search goes through the listing that the
other filters ask for, and if it finds nothing among `LOOKED_AT` of its runs, it says where it stopped. Only ids have an
index, and a run that is named by its id is found at once, however old it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, NamedTuple, TypedDict

from sqlalchemy import Connection, Row, Select, select, type_coerce

from trackside.app.storage._reading.listings import RunListing, run_of
from trackside.app.storage._reading.run_records import RUNS
from trackside.app.storage._rows.arguments import AnyOf, Place, plain_or_none
from trackside.app.storage._rows.encoding import json_of, time_of
from trackside.app.storage._rows.records import StoredRun, cursor_of
from trackside.app.storage._rows.tables import PlainText, runs
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.types import JsonObject, RunStatus

LOOKED_AT: Final = 750
"""How many runs one search looks at, which takes less than ten milliseconds."""
_LEFT_OUT: Final = "…"
"""What lists show in place of the beginning of an id, before its end."""

_FIRST_LOOK: Final = 250  # enough to fill a page if most runs match
_LOOK: Final = LOOKED_AT - _FIRST_LOOK

_AS_TEXT: Final = (runs.c.created_at, runs.c.started_at, runs.c.ended_at, runs.c.metadata)
"""Columns decoded only for rows where that is asked: for most rows, decoding would be a third of the time."""
_LOOKED_FOR_IN: Final = (
    *(type_coerce(column, PlainText).label(column.name) for column in _AS_TEXT),
    runs.c.run_id,
    runs.c.thread_id,
    runs.c.agent,
    runs.c.title,
    runs.c.error,
    runs.c.error_type,
    runs.c.duration_seconds,
    runs.c.cost_usd,
)


class RunFilters(TypedDict, total=False):
    """What `Store.runs` filters by."""

    status: AnyOf[RunStatus] | None
    agent: str | None
    thread_id: str | None
    parent_run_id: str | None
    metadata: JsonObject | None
    since: datetime | None
    until: datetime | None
    id_prefix: str | None
    owner: str | None
    removed: bool
    waiting: bool


class FoundRuns(NamedTuple):
    """Runs that a search has found, the last created first, and the `cursor` where it continues; None: there is no
    more.
    """

    runs: Sequence[StoredRun]
    continues: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSearch:
    """A page of the runs of a listing that contain a text somewhere, cost so much, or took so long.

    The text is casefolded, and also kept as it was `typed`, because the index of ids is case-sensitive. A run that goes
    on has taken the time from its start to `now`.
    """

    listing: RunListing
    text: str
    typed: str
    min_cost: float | None
    min_duration: float | None
    now: datetime

    @classmethod
    def of(
        cls, listing: RunListing, *, text: str | None, min_cost: float | None, min_duration: float | None
    ) -> RunSearch:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        typed = plain_or_none("text", text) or ""
        return cls(
            listing=listing,
            text=typed.casefold(),
            typed=typed,
            min_cost=_at_least("min_cost", min_cost),
            min_duration=_at_least("min_duration", min_duration),
            now=datetime.now(UTC),
        )

    def read(self, connection: Connection) -> FoundRuns:
        """The runs that are found among those that are looked at."""
        if self.listing.statuses == []:
            return FoundRuns([], None)
        limit, page = self.listing.page.limit, self.listing.page
        found: list[str] = []
        row: Row[Any] | None = None
        for row in self._looked_at(connection):
            if self._fits(row):
                found.append(row.run_id)
                if len(found) == limit:
                    return FoundRuns(_fetch(connection, found), None)
        if row is None or self._is_last(connection, place := _place_of(row)):
            return FoundRuns(_fetch(connection, found), None)
        if page.after is None and page.before is None:
            found += self._named(connection, limit)
        return FoundRuns(_fetch(connection, [*dict.fromkeys(found)][:limit]), cursor_of(*place))

    def _looked_at(self, connection: Connection) -> Iterator[Row[Any]]:
        """The runs of the listing from where the page begins, `LOOKED_AT` at most."""
        left, look, listing = LOOKED_AT, _FIRST_LOOK, self.listing
        while left:
            size = min(look, left)
            listing = replace(listing, page=replace(listing.page, limit=size))
            rows = self._rows(connection, listing.keys(connection), oldest_first=listing.page.after is not None)
            yield from rows
            if len(rows) < size:
                return
            left, look = left - size, _LOOK
            listing = _behind(listing, _place_of(rows[-1]))

    def _is_last(self, connection: Connection, place: Place) -> bool:
        """Whether the listing has nothing beyond this place."""
        behind = _behind(replace(self.listing, page=replace(self.listing.page, limit=1)), place)
        return connection.execute(behind.keys(connection)).first() is None

    def _named(self, connection: Connection, limit: int) -> list[str]:
        """The runs whose id, or whose thread's, begins with the text in one of its spellings, if these are few."""
        if not self.text:
            return []
        spellings = dict.fromkeys((self.typed, self.text, self.typed.upper()))
        ways = [way for spelling in spellings for way in self.listing.beginning_with(connection, spelling)]
        rows = [row for way in ways for row in self._rows(connection, way) if self._fits(row)]
        rows.sort(key=lambda row: (row.created_at, row.run_id), reverse=True)
        return [row.run_id for row in rows[:limit]]

    def _rows(self, connection: Connection, keys: Select[Any], *, oldest_first: bool = False) -> Sequence[Row[Any]]:
        query: Select[*tuple[Any, ...]] = select(*_LOOKED_FOR_IN).where(runs.c.run_id.in_(select(keys.subquery().c.id)))
        when, id_ = runs.c.created_at, runs.c.run_id
        order = (when, id_) if oldest_first else (when.desc(), id_.desc())
        return connection.execute(query.order_by(*order)).all()

    def _fits(self, run: Row[Any]) -> bool:
        if self.min_cost is not None and (run.cost_usd is None or run.cost_usd < self.min_cost):
            return False
        if self.min_duration is not None and self._seconds_of(run) < self.min_duration:
            return False
        return not self.text or self._says(run)

    def _seconds_of(self, run: Row[Any]) -> float:
        if run.duration_seconds is not None:
            return float(run.duration_seconds)
        if run.started_at is None or run.ended_at is not None:
            return -1.0
        return float((self.now - time_of(run.started_at)).total_seconds())

    def _says(self, run: Row[Any]) -> bool:
        wanted, ids = self.text, (run.run_id, run.thread_id)
        said = [text for text in (run.title, run.error, run.error_type, run.agent) if text is not None]
        if run.metadata is not None:
            said += _texts_in(json_of(run.metadata))
        if wanted.removeprefix(_LEFT_OUT) not in "\0".join((*ids, *said)).casefold():  # rules out most runs at one look
            return False
        return any(_is_at_an_end(wanted, id_.casefold()) for id_ in ids) or any(
            wanted in text.casefold() for text in said
        )


def _place_of(run: Row[Any]) -> Place:
    return Place(time_of(run.created_at), run.run_id)


def _at_least(field: str, said: Any) -> float | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not isfinite(said) or said < 0:
        raise InvalidQueryError(field=field, value=said, why="it is a number from 0 up")
    return float(said)


def _is_at_an_end(wanted: str, id_: str) -> bool:
    """Whether an id begins like this, or ends like it behind a mark, if any, that its beginning was left out."""
    return id_.startswith(wanted) or id_.endswith(wanted.removeprefix(_LEFT_OUT))


def _behind(listing: RunListing, place: Place) -> RunListing:
    page = listing.page
    return replace(listing, page=replace(page, before=place) if page.after is None else replace(page, after=place))


def _texts_in(metadata: Any) -> Iterator[str]:
    """The values of metadata as texts, however deeply nested."""
    waiting = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield value if isinstance(value, str) else json.dumps(value)


def _fetch(connection: Connection, ids: Sequence[str]) -> list[StoredRun]:
    if not ids:
        return []
    query = RUNS.where(runs.c.run_id.in_(ids)).order_by(runs.c.created_at.desc(), runs.c.run_id.desc())
    return [run_of(row) for row in connection.execute(query)]
