"""What can go wrong with a spool."""

from __future__ import annotations

from typing import ClassVar

from trackside.harness.errors import Fault, TracksideError


class SpoolError(TracksideError):
    """The spool {folder} cannot be used: {why}. See that this user may write there and that there is room, or name another folder with database.spool."""  # noqa: E501

    fault: ClassVar[Fault] = "store"
    retryable = True


class SpoolFullError(SpoolError):
    """The spool {folder} holds {size} bytes and may hold {limit}, so {more} more have no place in it. It empties itself when the database is back; what is in its files {aside} stays until somebody takes it away. database.spool_size lets it hold more."""  # noqa: E501
