"""Workers for whom an expired lease means that its worker is gone, as it does for workers that have run long enough."""

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
    """Make this worker one of these."""
    enrolment.enroll = partial(_enroll_and_trust, enrolment)  # type: ignore[method-assign]


def trust_leases_at_once(patch: pytest.MonkeyPatch) -> None:
    """Make each worker that enrols from now on one of these: otherwise each waits for the length of a lease first."""
    patch.setattr(Enrolment, "enroll", _enroll_and_trust)
