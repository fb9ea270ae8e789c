"""A clock that somebody sets, and that goes on while the machine sleeps, on a loop of virtual time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import override

from trackside.testing import VirtualClock


class SetClock(VirtualClock):
    """Shows the time of the loop and what it is ahead of that."""

    ahead = timedelta()

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead
