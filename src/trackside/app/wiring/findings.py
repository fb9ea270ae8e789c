"""What somebody who runs this should know: what is wrong, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

_NOTHING_YET: Final = ("nothing recorded", "it has no tables yet")


class Severity(StrEnum):
    """How bad it is: something does not work, a human should look at it, or it is only good to know."""

    error = "error"
    warning = "warning"
    note = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was found: what, where, and what to do about it (empty for notes)."""

    severity: Severity
    what: str
    where: str
    fix: str = ""

    @property
    def is_of_nothing(self) -> bool:
        """Whether it says that there is nothing yet that could be well or not."""
        return self.severity is Severity.note and self.what.startswith(_NOTHING_YET)


def long_time(time: timedelta) -> str:
    """A length of time, roughly: `40 s`, `5 min`, `3 h`, `2 d`."""
    seconds = time.total_seconds()
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
