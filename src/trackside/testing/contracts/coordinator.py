"""What holds for every coordinator."""

from __future__ import annotations

from typing import Any, ClassVar, override

from trackside.testing.contracts._admission import AdmissionPromises
from trackside.testing.contracts._attempts import AttemptPromises
from trackside.testing.contracts._fleets import FleetPromises
from trackside.testing.contracts._requests import RequestPromises
from trackside.testing.contracts._steps import StepPromises
from trackside.testing.contracts.fleet import Coordinators


class CoordinatorContract(AdmissionPromises, StepPromises, RequestPromises, FleetPromises, AttemptPromises):
    """The contract of a coordinator; subclass it and define the fixture `coordinators`, which gives `Coordinators`.

    What they share is fresh for each test. The fixture may be async.

        class TestMyCoordinator(CoordinatorContract):
            @pytest.fixture
            def coordinators(self) -> Coordinators:
                return Coordinators(MyCoordinator)
    """

    contract_fixture = "coordinators"

    durable: ClassVar[bool] = False
    """Pending runs outlive the process that admitted them, whether it is closed or killed."""

    shared: ClassVar[bool] = False
    """Several coordinators, opened side by side, share one truth."""

    @override
    def check_fixture(self, given: Any) -> None:
        assert isinstance(given, Coordinators), f"the fixture `coordinators` gave {given!r} instead of `Coordinators`"
