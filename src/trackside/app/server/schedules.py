"""When runs are due that are to be started again and again: pure, but for the time zones that it reads from disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from trackside.harness.errors import TracksideError

_MAX_CHARS: Final = 255
_FIELDS: Final = 5


class InvalidScheduleError(TracksideError, ValueError):
    """{field} = {value!r:.100} is no schedule: {why}."""


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
            raise InvalidScheduleError(field="schedule", value=expression, why=str(exc)) from exc

    def after(self, when: datetime) -> datetime | None:
        """The first of its times that is later than `when`, in UTC; None if none is in the next 50 years."""
        for found in CronSim(self._expression, when.astimezone(self._zone)):
            # In an hour that there is twice it begins with the first one, whichever `when` is in.
            if (time := found.astimezone(UTC)) > when:
                return time
        return None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:  # not there; no name of a file; that of a folder
        why = "there is no such time zone; they have IANA names, such as 'Europe/Berlin'"
        raise InvalidScheduleError(field="timezone", value=name, why=why) from exc


def next_run(schedule: str, timezone: str | None, end_time: datetime | None, when: datetime) -> datetime | None:
    """When the first run after `when` is due; None: never, for there is an end before.

    It may read files.

    Raises:
        InvalidScheduleError: there is no such time, or place.
    """
    due = Schedule(schedule, timezone).after(when)
    return None if due is None or (end_time is not None and due > end_time) else due
