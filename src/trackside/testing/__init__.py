"""For the tests of those who run agents or observe runs: a loop whose time is virtual, observers that misbehave on
purpose, events to give them, and a checker of what a run announced. For those who write an observer, an adapter of a
framework, a coordinator or a store: the conformance kit (`contracts`). This package imports the harness and nothing
else; only the kit needs pytest, and is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from trackside.testing.errors import InvalidTestError
from trackside.testing.events import make_event, make_run
from trackside.testing.loop import DeadlockError, HorizonError, VirtualClock, VirtualTimeLoop, run_virtual
from trackside.testing.observers import Misbehaviour, RecordingBatchObserver, RecordingObserver
from trackside.testing.run_order import assert_run_order

if TYPE_CHECKING:
    from trackside.testing.contracts import (
        AgentContract,
        CoordinatorContract,
        Coordinators,
        ObserverContract,
        ScriptedAgents,
        StoreContract,
        Stores,
    )

__all__ = [
    "AgentContract",
    "CoordinatorContract",
    "Coordinators",
    "DeadlockError",
    "HorizonError",
    "InvalidTestError",
    "Misbehaviour",
    "ObserverContract",
    "RecordingBatchObserver",
    "RecordingObserver",
    "ScriptedAgents",
    "StoreContract",
    "Stores",
    "VirtualClock",
    "VirtualTimeLoop",
    "assert_run_order",
    "make_event",
    "make_run",
    "run_virtual",
]

_KIT = {
    "AgentContract",
    "CoordinatorContract",
    "Coordinators",
    "ObserverContract",
    "ScriptedAgents",
    "StoreContract",
    "Stores",
}


def __getattr__(name: str) -> Any:
    if name not in _KIT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trackside.testing import contracts

    return getattr(contracts, name)
