"""Why a request failed, as clients expect it: a status, one sentence under `detail`, and a `code` to look it up by."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Final

from trackside.app.attempts import AskedSinceError
from trackside.app.server.responses import Failure, Unfit
from trackside.app.storage.errors import (
    CheckpointTooLargeError,
    CronExistsError,
    DatabaseFullError,
    NoSchemaError,
    NoSuchDatabaseError,
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
    AgentFailedError,
    ClosedError,
    DuplicateRunError,
    Fault,
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
    """{detail}"""  # noqa: D415  # the raiser brings the sentence

    def __init__(
        self, *, status: int, detail: str, headers: Mapping[str, str] | None = None, code: str | None = None
    ) -> None:
        super().__init__(status=status, detail=detail, headers=headers or {}, code=code)


_STATUS: Final[Mapping[type[TracksideError], int]] = {
    UnknownThreadError: 404,
    UnknownRunError: 404,
    UnknownCheckpointError: 404,
    UnknownAgentError: 422,
    ThreadBusyError: 409,
    AskedSinceError: 409,
    ThreadExistsError: 409,
    CronExistsError: 409,
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
    NoSuchDatabaseError: 503,
    NoSchemaError: 503,
    ClosedError: 503,
}


FAILED: Final = "the server failed; its log says why"
_AGENT_FAILED: Final = "failed when it was asked; the server's log says why"
_DATABASE_FAILED: Final = "the server's database failed; its log says why"
_AWAY: Final = "the server's database cannot be reached for the moment, or is busy: try again"
_FULL: Final = "the server's database has no room for what is new: try again when its operator has made some"
_SHORT: Final = "the server has no memory, thread or descriptor to spare at the moment: try again"
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_THREAD: Final = "can't start new thread"


def status_of(kind: type[TracksideError], fault: Fault | None = None) -> int:
    """The status for a kind of error; `fault` says whose fault this one is, where that differs from its kind's."""
    for one in kind.__mro__:
        if (status := _STATUS.get(one)) is not None:
            return status
    if (fault or kind.fault) == "caller":
        return 422
    return 503 if issubclass(kind, StorageError) and kind.retryable else 500


def answer_of(exc: TracksideError) -> Failure:
    """What a client is told about what was raised."""
    if isinstance(exc, HttpError):
        return Failure(**exc.details)
    status = status_of(type(exc), exc.fault)
    # The server's own business is for its log: nobody else has to know where its database is.
    if status >= 500 and isinstance(exc, StorageError):
        logger.error("a request failed: %s", exc)
        return answer_without(exc)
    if status < 500 or exc.fault == "caller":
        return Failure(status, str(exc), code=exc.code, unfit=_unfit(exc))
    logger.error("a request failed: %s", exc, exc_info=exc)
    if isinstance(exc, AgentFailedError):
        return Failure(500, f"the agent {exc.details['agent']!r} {_AGENT_FAILED}", code=exc.code)
    return Failure(500, FAILED)


def answer_to_unexpected(exc: BaseException) -> Failure:
    """What a client is told about an error that nobody has foreseen; the caller logs the error.

    If a shared resource ran short, that is nobody's defect, and over soon: a client that tries again succeeds.
    """
    match exc:
        case MemoryError():
            is_short = True
        case OSError():
            is_short = exc.errno in _SHORTAGES
        case RuntimeError():
            is_short = str(exc) == _NO_THREAD
        case _:
            is_short = False
    return Failure(503, _SHORT, {"Retry-After": "1"}) if is_short else Failure(500, FAILED)


def _unfit(exc: TracksideError) -> Unfit:
    match exc.details:
        case {"field": str(field), "why": str(why)}:
            return field, why
        case _:
            return None


def answer_without(exc: StorageError) -> Failure:
    """What a client is told where the database has failed. This logs nothing: that is for the caller."""
    if isinstance(exc, DatabaseFullError):
        return Failure(503, _FULL, {"Retry-After": "30"})
    if status_of(type(exc), exc.fault) == 503:
        return Failure(503, _AWAY, {"Retry-After": "1"})
    return Failure(500, _DATABASE_FAILED)
