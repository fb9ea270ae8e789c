"""The time that a page is about, as its address says: the last few hours or days, or from one moment to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_BARS: Final = 40
"""A day then has hours, and a month has days: more bars say no more on a screen, and are made of smaller sums."""
_MOST_BUCKETS: Final = 1_000  # of a timeline
_WIDTHS: Final = tuple(
    timedelta(minutes=minutes)
    for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 10_080, 43_200, 129_600, 525_600)
)

LAST: Final[Mapping[str, tuple[timedelta, str]]] = {
    "15min": (timedelta(minutes=15), "15 min"),
    "1h": (timedelta(hours=1), "1 h"),
    "6h": (timedelta(hours=6), "6 h"),
    "24h": (timedelta(hours=24), "24 h"),
    "7d": (timedelta(days=7), "7 d"),
    "30d": (timedelta(days=30), "30 d"),
}
"""The times until now that have a name: how long they are, and what they are called."""

_CALLED: Final = {
    "15min": "last 15 minutes",
    "1h": "last hour",
    "6h": "last 6 hours",
    "24h": "last 24 hours",
    "7d": "last 7 days",
    "30d": "last 30 days",
}

USUAL: Final = "24h"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRange:
    """A time, from when to when, and the width of its steps."""

    name: str | None
    """Which of `LAST` it is; None: it is from one moment to another."""
    since: datetime
    until: datetime | None
    """None: up to now, and onwards."""
    width: timedelta
    problem: str | None = None
    """What made no sense in the address, so that this is the usual time instead."""

    @property
    def called(self) -> str:
        """The time in a sentence: `in the last 24 hours`."""
        return "in this time" if self.name is None else f"in the {_CALLED[self.name]}"

    @property
    def in_address(self) -> str:
        """The time in the form of a page's address."""
        if self.name is not None:
            return urlencode({"range": self.name})
        return urlencode({"since": stamp(self.since)} | ({} if self.until is None else {"until": stamp(self.until)}))

    @property
    def query(self) -> dict[str, str]:
        """The time as the API's `since` and `until`."""
        return {"since": stamp(self.since)} | ({} if self.until is None else {"until": stamp(self.until)})


def time_range(given: Mapping[str, Sequence[str]], now: datetime) -> TimeRange:
    """The time that the parameters of an address mean: `range`, or `since` and `until`.

    Times until now begin with a whole step, so that what is counted is what the bars show.

    Args:
        given: the parameters.
        now: the current time.
    """
    try:
        since, until = (_moment(name, given) for name in ("since", "until"))
        if since is None and until is None:
            return _last(given.get("range", [USUAL])[0], now)
        return _between(since, until, now)
    except ValueError as exc:
        usual = _last(USUAL, now)
        return TimeRange(name=USUAL, since=usual.since, until=None, width=usual.width, problem=str(exc))


def usual_for(oldest: datetime | None, now: datetime) -> str:
    """The shortest named time that covers all there is, or the usual one."""
    lengths = [(name, length) for name, (length, _) in LAST.items() if length <= LAST[USUAL][0]]
    return next((name for name, length in lengths if oldest is not None and now - oldest <= length), USUAL)


def stamp(when: datetime) -> str:
    """A moment in the form that the API takes."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _last(name: str, now: datetime) -> TimeRange:
    if name not in LAST:
        raise ValueError(f"there is no range {name[:40]!r}; choose from {', '.join(LAST)}, or give a start and an end")
    length, _ = LAST[name]
    width = _width(length)
    return TimeRange(name=name, since=_EPOCH + (now - length - _EPOCH) // width * width, until=None, width=width)


def _between(since: datetime | None, until: datetime | None, now: datetime) -> TimeRange:
    end = now if until is None else until
    try:
        begin = end - LAST[USUAL][0] if since is None else since
    except OverflowError:
        raise ValueError("the end is too long ago") from None
    if begin >= end:
        why = "is in the future" if until is None else "is not before the end"
        raise ValueError(f"the start {why}")
    if begin < _EPOCH:
        raise ValueError("nothing was recorded before 1970")
    width = _width(end - begin)
    if (end - begin) / width > _MOST_BUCKETS - 2:
        raise ValueError("this range is too long to be shown at once")
    return TimeRange(name=None, since=begin, until=until, width=width)


def _width(length: timedelta) -> timedelta:
    return next((width for width in _WIDTHS if length / width <= _MOST_BARS), _WIDTHS[-1])


def _moment(name: str, given: Mapping[str, Sequence[str]]) -> datetime | None:
    said = given.get(name, [""])[0].strip()
    if not said:
        return None
    try:
        when = datetime.fromisoformat(said)
        # Without scripts, a form cannot tell its time zone.
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{said[:40]!r} is not a time; write it as 2026-01-31T13:45") from None
