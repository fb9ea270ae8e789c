"""When runs that are started again and again are due: pure, except that it reads time zones from disk."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from trackside.harness.errors import TracksideError

_MAX_CHARS: Final = 255
_FIELDS: Final = 5
_RANGES: Final = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day of the month": (1, 31),
    "month": (1, 12),
    "day of the week": (0, 7),
}
_NUMBERS: Final = re.compile(r"(?<![\w/#])\d+")  # not how often (`*/5`), nor which Monday of the month (`1#2`)


class InvalidScheduleError(TracksideError, ValueError):
    """{field} = {value!r:.100} is not a schedule: {why}."""


class InvalidTimezoneError(InvalidScheduleError):
    """{field} = {value!r:.100} is not a time zone: {why}."""


class Schedule:
    """Times as cron has them: minute, hour, day of the month, month, day of the week, by the clocks of a place.

    If neither the minute nor the hour begins with a `*`, a time that does not exist, as clocks are put forward, comes right
    after the gap, and one that there is twice, as they are put back, comes once. Other schedules have the times that there
    are. Debian's cron does the same.

    Args:
        expression: `30 9 * * MON-FRI`, say.
        timezone: an IANA name, `Europe/Berlin`; None: UTC.

    Raises:
        InvalidScheduleError: there is no such time, or no such place.
    """

    def __init__(self, expression: str, timezone: str | None = None) -> None:
        self._expression = expression
        self._zone = UTC if timezone is None else _zone(timezone)
        if len(expression) > _MAX_CHARS or len(expression.split()) != _FIELDS:
            why = "it has five fields: minute, hour, day of the month, month, day of the week"
            raise InvalidScheduleError(field="schedule", value=expression, why=why)
        try:
            CronSim(expression, datetime.now(UTC))
        except CronSimError as exc:
            why = _out_of_range(expression) or str(exc)
            raise InvalidScheduleError(field="schedule", value=expression, why=why) from exc

    def after(self, when: datetime) -> datetime | None:
        """The first of its times that is later than `when`, in UTC; None if none is in the next 50 years."""
        for found in CronSim(self._expression, when.astimezone(self._zone)):
            # In an hour that comes twice, `CronSim` begins with the first one, whichever `when` is in.
            if (time := found.astimezone(UTC)) > when:
                return time
        return None


def _out_of_range(expression: str) -> str | None:
    """The first number that is out of its field's range; None if there is none."""
    for (name, (least, most)), field in zip(_RANGES.items(), expression.split(), strict=True):
        for number in _NUMBERS.findall(field):
            if not least <= int(number) <= most:
                return f"the {name} {number} is not from {least} to {most}"
    return None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:  # there is none; no name of a file; the name of a folder
        why = "they have IANA names, such as 'Europe/Berlin'"
        raise InvalidTimezoneError(field="timezone", value=name, why=why) from exc


def next_run(schedule: str, timezone: str | None, end_time: datetime | None, when: datetime) -> datetime | None:
    """When the first run after `when` is due; None: never, because the end comes before.

    This may read files.

    Raises:
        InvalidScheduleError: there is no such time, or place.
    """
    due = Schedule(schedule, timezone).after(when)
    return None if due is None or (end_time is not None and due > end_time) else due
