"""When runs are due that are to be started again and again: pure, but for the time zones that it reads from disk."""

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
_NUMBERS: Final = re.compile(r"(?<![\w/#])\d+")  # not how often, and not the how manieth


class InvalidScheduleError(TracksideError, ValueError):
    """{field} = {value!r:.100} is not a schedule: {why}."""


class InvalidTimezoneError(InvalidScheduleError):
    """{field} = {value!r:.100} is not a time zone: {why}."""


class Schedule:
    """Times as cron has them: minute, hour, day of the month, month, day of the week, by the clocks of a place.

    Where clocks are put forward, what is at a time that there is not comes right behind it; where they are put back, what
    is at a fixed time comes once. So it is in Debian's cron.

    Args:
        expression: `30 9 * * MON-FRI`, say.
        timezone: an IANA name, `Europe/Berlin`; None: UTC.

    Raises:
        InvalidScheduleError: there is no such time, or place.
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
            # In an hour that there is twice it begins with the first one, whichever `when` is in.
            if (time := found.astimezone(UTC)) > when:
                return time
        return None


def _out_of_range(expression: str) -> str | None:
    """The first number that its field does not have; None if there is none."""
    for (name, (least, most)), field in zip(_RANGES.items(), expression.split(), strict=True):
        for number in _NUMBERS.findall(field):
            if not least <= int(number) <= most:
                return f"the {name} {number} is not from {least} to {most}"
    return None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:  # not there; no name of a file; that of a folder
        why = "they have IANA names, such as 'Europe/Berlin'"
        raise InvalidTimezoneError(field="timezone", value=name, why=why) from exc


def next_run(schedule: str, timezone: str | None, end_time: datetime | None, when: datetime) -> datetime | None:
    """When the first run after `when` is due; None: never, for there is an end before.

    It may read files.

    Raises:
        InvalidScheduleError: there is no such time, or place.
    """
    due = Schedule(schedule, timezone).after(when)
    return None if due is None or (end_time is not None and due > end_time) else due
