"""What the filters in a page's address mean to the API, and what is wrong with each that makes no sense."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import urlencode

from trackside.app.dashboard.time_ranges import stamp, time_range
from trackside.app.settings.durations import duration_of

_TODAY: Final = re.compile(r"today([+-]\d\d:[0-5]\d)?([+-]\d\d:[0-5]\d)?", re.ASCII)
_MOMENT: Final = "write 1h, 7d, today or 2026-01-31T08:00"
_MOST_CHARS: Final = 255
_MOST_SECONDS: Final = 10**10
_MOST_DOLLARS: Final = 10**6
_POSITION: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


def typed_number(text: str) -> float:
    """The number that somebody has typed; NaN if that is none."""
    try:
        return float(text.replace("_", "?"))  # only Python reads 1_0 as ten
    except ValueError:
        return math.nan


class Filters:
    """The filters of a page: each is read once, by the method for its kind.

    Args:
        given: the parameters of the address.
        names: the parameters that are filters, in their order in an address.
        now: the current time.
        also: other names for them that people try in an address.
    """

    def __init__(
        self,
        given: Mapping[str, Sequence[str]],
        names: Collection[str],
        now: datetime,
        *,
        also: Mapping[str, str] | None = None,
    ) -> None:
        given = {name: given[other] for other, name in (also or {}).items() if other in given} | dict(given)
        self._given = {name: [one.strip() for one in given[name]] for name in names if name in given}
        self._now = now
        self.query: dict[str, Any] = {}
        """The parameters for the API."""
        self.problems: dict[str, str] = {}
        """What is wrong, by filter."""

    def __bool__(self) -> bool:
        """Whether there are any filters."""
        return bool(self._given)

    def said(self, name: str) -> str:
        """A filter as it was typed; empty if it was not."""
        return self._given.get(name, [""])[0]

    def all_said(self, name: str) -> Sequence[str]:
        """All values of a filter that can have several."""
        return self._given.get(name, [])

    def address(self, **more: str | int | None) -> str:
        """The query string of the same page with these filters and others; those that are None are left out."""
        pairs = [(name, value) for name, values in self._given.items() if name not in more for value in values]
        pairs += [(name, str(value)) for name, value in more.items() if value is not None]
        return urlencode(pairs)

    def text(self, name: str) -> None:
        """Read a text, which has a limited length."""
        said = self.said(name)
        if len(said) > _MOST_CHARS:
            self.problems[name] = f"This has {len(said):,} characters; at most {_MOST_CHARS:,} are allowed."
        elif "\0" in said:
            self.problems[name] = "The character with the code 0 is not allowed."
        elif said:
            self.query[name] = said

    def choices(self, name: str, known: Collection[str]) -> None:
        """Read several of these values."""
        said = self.all_said(name)
        strange = [one for one in said if one not in known]
        if strange:
            self.problems[name] = f"There is no {strange[0][:40]!r}; choose from {', '.join(known)}."
        elif said:
            self.query[name] = list(said)

    def seconds(self, name: str) -> None:
        """Read a length of time."""
        said = self.said(name)
        found = duration_of(said) if said else None
        if found is not None and found.seconds <= _MOST_SECONDS:
            self.query[name] = found.seconds
        elif said:
            self.problems[name] = "This is not a duration; write 90, 30s, 5m or 2h."

    def dollars(self, name: str) -> None:
        """Read an amount of money."""
        said = self.said(name)
        dollars = typed_number(said.removeprefix("$")) if said else 0.0
        if not 0 <= dollars <= _MOST_DOLLARS:
            self.problems[name] = "This is not an amount in US dollars; write 0.5."
        elif said:
            self.query[name] = dollars

    def flag(self, name: str) -> None:
        """Read something that is true or false."""
        said = self.said(name)
        if said in {"true", "false"}:
            self.query[name] = said
        elif said:
            self.problems[name] = "Write true or false."

    def time(self, since: str = "since", until: str | None = "until") -> None:
        """Read from when to when. A `range` of the overview also counts as a time."""
        if "range" in self._given and not self.said(since):
            found = time_range({"range": self._given["range"]}, self._now)
            if found.problem is not None:
                self.problems[since] = found.problem
            else:
                self.query[since] = stamp(found.since)
        moments = {name: self._moment(name) for name in (since, until) if name is not None and self.said(name)}
        self.query |= {name: stamp(when) for name, when in moments.items() if when is not None}
        begin, end = moments.get(since), moments.get(until or "")
        if begin is not None and end is not None and begin >= end:
            self.problems[until or since] = "The end has to be after the start."

    def position(self, name: str) -> None:
        """Read a position in the log."""
        said = self.said(name)
        if said and not _POSITION.fullmatch(said):
            self.problems[name] = "This is not a position in the log: write a whole number."
        elif said:
            self.query[name] = int(said)

    def _moment(self, name: str) -> datetime | None:
        said = self.said(name)
        try:
            return moment_of(said, self._now)
        except (ValueError, OverflowError):
            self.problems[name] = f"This is not a time; {_MOMENT}."
            return None


def moment_of(said: str, now: datetime) -> datetime:
    """The moment that a text means: `1h` ago, `today`, or an ISO date or time.

    A date or time is in UTC unless it has an offset. `today` is the day in UTC, and `today+02:00` that where the clock is so
    far ahead; `today+02:00+01:00` has begun when the clock was at the second offset, as it was put forward since.

    Raises:
        ValueError, OverflowError: it means no moment.
    """
    found = duration_of(said)
    if found is not None:
        if not found.has_unit:
            raise ValueError("no unit")
        return now - timedelta(seconds=found.seconds)
    if today := _TODAY.fullmatch(said):
        here = _offset(today[1])
        day = now.astimezone(here).replace(hour=0, minute=0, second=0, microsecond=0)
        return day.replace(tzinfo=_offset(today[2]) if today[2] else here).astimezone(UTC)
    when = datetime.fromisoformat(said)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _offset(said: str | None) -> timezone:
    if said is None:
        return UTC
    ahead = timedelta(hours=int(said[1:3]), minutes=int(said[4:]))
    return timezone(-ahead if said[0] == "-" else ahead)
