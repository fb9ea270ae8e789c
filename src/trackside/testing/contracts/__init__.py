"""A conformance kit for those who write an observer, an adapter of a framework, a coordinator or a store. Subclass a
contract in a test module, define its one fixture, claim what should hold, and see whether it does. It imports the
harness and pytest.

    from trackside.testing import ObserverContract

    class TestMyObserver(ObserverContract):
        @pytest.fixture
        def observer(self):
            return MyObserver()
"""

from trackside.testing.contracts._promise import Contract
from trackside.testing.contracts._rules import RULES
from trackside.testing.contracts.agent import AgentContract
from trackside.testing.contracts.coordinator import CoordinatorContract
from trackside.testing.contracts.fleet import Coordinators
from trackside.testing.contracts.observer import ObserverContract
from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS, ScriptedAgents
from trackside.testing.contracts.store import StoreContract
from trackside.testing.contracts.stores import EventStore, Stores

__all__ = [
    "INPUT_TOKENS",
    "OUTPUT_TOKENS",
    "RULES",
    "AgentContract",
    "Contract",
    "CoordinatorContract",
    "Coordinators",
    "EventStore",
    "ObserverContract",
    "ScriptedAgents",
    "StoreContract",
    "Stores",
]
