"""A worker's being known to all others as one that is alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from trackside.app.storage._encoding import time_text
from trackside.app.storage._heart import Heart
from trackside.app.storage._recovery import Leave, Register
from trackside.app.storage._writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError
from trackside.harness.errors import ClosedError

logger = logging.getLogger("trackside.storage")

BEATS_PER_LEASE: Final = 3


class Enrolment:
    """Registers a worker when it is needed, and renews its lease until it says goodbye.

    Args:
        writer: that of the store.
        worker_id: the name under which the worker owns runs.
        lease_seconds: for how long others take it for alive that hear nothing of it.
        on_enrolled: is called when it is known for the first time.
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        *,
        worker_id: str,
        lease_seconds: float,
        on_enrolled: Callable[[], object],
    ) -> None:
        self._writer = writer
        self._worker_id = worker_id
        self._lease = lease_seconds
        self._on_enrolled = on_enrolled
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._started_at = time_text(datetime.now(UTC))
        self._heart: Heart | None = None
        self._enrolling = asyncio.Lock()
        self._failure: StorageError | None = None
        """What the last try failed with."""

    async def enroll(self) -> None:
        """Be a worker: what is admitted is looked after by somebody who is known to be alive.

        Who comes while another tries hears how that went, instead of waiting as long once more.

        Raises:
            StorageError: it cannot be stored.
        """
        before = self._failure
        async with self._enrolling:
            if self._heart is not None:
                return
            if (failure := self._failure) is not None and failure is not before:
                raise type(failure)(**failure.details) from failure
            try:
                await self._writer.write(self._registration())
            except StorageError as exc:
                self._failure = exc
                raise
            self._heart = Heart(self._beat, every=self._lease / BEATS_PER_LEASE)
            self._on_enrolled()

    async def leave(self) -> bool:
        """Be a worker no longer; whether the others know, who else find out when the lease ends."""
        if self._heart is None:
            return False
        self._heart.stop()
        try:
            await self._writer.write_to_the_end(Leave(worker_id=self._worker_id))
        except StorageError as exc:
            logger.info("worker %s could not sign off: %s", self._worker_id, exc)
            return False
        return True

    def _registration(self) -> Register:
        return Register(
            worker_id=self._worker_id,
            name=self._name,
            started_at=self._started_at,
            lease_seconds=self._lease,
        )

    def _beat(self) -> None:
        """Renew the lease: from a thread of its own, so that an agent that blocks the loop is not taken for dead."""
        with contextlib.suppress(ClosedError):
            self._writer.put(self._registration())
