"""How long threads live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage.errors import InvalidQueryError

MAX_TTL_MINUTES: Final = 525_600 * 100.0
"""A hundred years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """When a thread is removed: at `expires_at`, `ttl_minutes` after that was asked for."""

    ttl_minutes: float | None
    expires_at: str | None


FOREVER: Final = Lifetime(ttl_minutes=None, expires_at=None)


def lifetime_of(ttl_minutes: Any, now: datetime, *, field: str = "ttl") -> Lifetime:
    """The lifetime of a thread that lives for so many minutes from now on; None: for ever.

    Raises:
        InvalidQueryError: it is not such a number; `field` is what the caller calls it.
    """
    if ttl_minutes is None:
        return FOREVER
    if type(ttl_minutes) not in {int, float} or not 0 < ttl_minutes <= MAX_TTL_MINUTES:
        why = "it is a number of minutes above 0, and of no more than a hundred years"
        raise InvalidQueryError(field=field, value=ttl_minutes, why=why)
    expires_at = time_text(now + timedelta(minutes=ttl_minutes))
    return Lifetime(ttl_minutes=float(ttl_minutes), expires_at=expires_at)
