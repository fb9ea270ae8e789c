"""Our own coordinators keep the contract of a coordinator."""

import pytest

from trackside.harness.memory import MemoryCoordinator
from trackside.testing import VirtualClock
from trackside.testing.contracts import CoordinatorContract, Coordinators


class TestMemoryCoordinator(CoordinatorContract):
    virtual_time = True

    @pytest.fixture
    async def coordinators(self) -> Coordinators:
        clock = VirtualClock()
        return Coordinators(lambda: MemoryCoordinator(clock=clock), clock=clock)
