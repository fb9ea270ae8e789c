"""Workers for whom a lease that has ended says that its worker is gone, as for those that are there long enough."""

from __future__ import annotations

from functools import partial

import pytest

from trackside.app.storage._coordination.enrolment import Enrolment

_enroll = Enrolment.enroll


async def _enroll_and_trust(enrolment: Enrolment) -> None:
    has_come = enrolment._heart is None
    await _enroll(enrolment)
    if has_come:
        enrolment._trusts_from = 0.0


def trust_leases_from_its_start(enrolment: Enrolment) -> None:
    """Have this one be such a worker."""
    enrolment.enroll = partial(_enroll_and_trust, enrolment)  # type: ignore[method-assign]


def trust_leases_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have whoever enrols from now on be such a worker: else each waits for the length of a lease first."""
    patch.setattr(Enrolment, "enroll", _enroll_and_trust)
