"""A conformance kit for whoever writes an observer, a coordinator or a store: subclass a contract in a test module, define
its one fixture, claim what should hold, and see whether it does. Imports the harness and pytest.

    from trackside.testing import ObserverContract

    class TestMyObserver(ObserverContract):
        @pytest.fixture
        def observer(self):
            return MyObserver()
"""

from trackside.testing.contracts._promise import Contract
from trackside.testing.contracts._rules import RULES
from trackside.testing.contracts.coordinator import CoordinatorContract
from trackside.testing.contracts.fleet import Coordinators
from trackside.testing.contracts.observer import ObserverContract
from trackside.testing.contracts.store import StoreContract
from trackside.testing.contracts.stores import EventStore, Stores

__all__ = [
    "RULES",
    "Contract",
    "CoordinatorContract",
    "Coordinators",
    "EventStore",
    "ObserverContract",
    "StoreContract",
    "Stores",
]
