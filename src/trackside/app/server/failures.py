"""What a request failed with, as clients expect it: a status and one sentence, under `detail`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from trackside.app.storage.errors import (
    CheckpointTooLargeError,
    NotParkedError,
    StateTooLargeError,
    StorageError,
    SubscriptionBusyError,
    SubscriptionConflictError,
    SubscriptionPausedError,
    TooManyRunsError,
    UnknownSubscriptionError,
)
from trackside.harness.errors import (
    ClosedError,
    DuplicateRunError,
    InvalidSpecError,
    NotPausedError,
    PayloadError,
    RunDepthError,
    RunInUseError,
    ThreadBusyError,
    ThreadExistsError,
    ThreadInUseError,
    TracksideError,
    UnknownAgentError,
    UnknownCheckpointError,
    UnknownRunError,
    UnknownThreadError,
)

logger = logging.getLogger("trackside.server")


class HttpError(TracksideError):
    """{detail}"""  # noqa: D415  # the sentence is whoever's raises it

    def __init__(self, *, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, detail=detail, headers=headers or {})


_STATUS: Final[Mapping[type[TracksideError], int]] = {
    UnknownThreadError: 404,
    UnknownRunError: 404,
    UnknownCheckpointError: 404,
    UnknownAgentError: 422,
    ThreadBusyError: 409,
    ThreadExistsError: 409,
    ThreadInUseError: 409,
    DuplicateRunError: 409,
    RunInUseError: 409,
    NotPausedError: 422,
    InvalidSpecError: 422,
    PayloadError: 422,
    RunDepthError: 422,
    TooManyRunsError: 403,
    UnknownSubscriptionError: 404,
    NotParkedError: 404,
    SubscriptionConflictError: 409,
    SubscriptionBusyError: 409,
    SubscriptionPausedError: 409,
    StateTooLargeError: 413,
    CheckpointTooLargeError: 413,
    ClosedError: 503,
}


FAILED: Final = "the server failed; its log says why"
_DATABASE_FAILED: Final = "the server's database failed; its log says why"
_AWAY: Final = "the server's database cannot be reached for the moment, or is busy: try again"


def answer_of(exc: TracksideError) -> tuple[int, str, Mapping[str, str]]:
    """Status, sentence and headers for what was raised."""
    if isinstance(exc, HttpError):
        return exc.details["status"], exc.details["detail"], exc.details["headers"]
    for kind in type(exc).__mro__:
        if (status := _STATUS.get(kind)) is not None:
            return status, str(exc), {}
    if exc.fault == "caller":
        return 422, str(exc), {}
    # What is the server's own business is its log's: where its database is, nobody else has to know.
    if isinstance(exc, StorageError):
        logger.error("a request failed: %s", exc)
        return (503, _AWAY, {"Retry-After": "1"}) if exc.retryable else (500, _DATABASE_FAILED, {})
    logger.error("a request failed: %s", exc, exc_info=exc)
    return 500, FAILED, {}
