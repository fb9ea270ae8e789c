"""Workers for whom a lease that has ended says that its worker is gone, as for those that are there long enough."""

from __future__ import annotations

import pytest

from trackside.app.storage._enrolment import Enrolment


def trust_leases_from_its_start(enrolment: Enrolment) -> None:
    """Have this one be such a worker."""
    enroll = enrolment.enroll

    async def enroll_and_trust() -> None:
        has_come = enrolment._heart is None
        await enroll()
        if has_come:
            enrolment._trusts_from = 0.0

    enrolment.enroll = enroll_and_trust  # type: ignore[method-assign]


def trust_leases_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have whoever enrols from now on be such a worker: else each waits for the length of a lease first."""
    enroll = Enrolment.enroll

    async def enroll_and_trust(self: Enrolment) -> None:
        has_come = self._heart is None
        await enroll(self)
        if has_come:
            self._trusts_from = 0.0

    patch.setattr(Enrolment, "enroll", enroll_and_trust)
