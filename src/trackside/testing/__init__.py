"""For the tests of whoever runs agents or observes runs: a loop whose time is virtual, observers that misbehave on
purpose, events to give them, a checker of what a run announced. Imports the harness and nothing else; needs no pytest.
"""

from trackside.testing.events import make_event, make_run
from trackside.testing.loop import DeadlockError, HorizonError, VirtualClock, VirtualTimeLoop, run_virtual
from trackside.testing.observers import Misbehaviour, RecordingBatchObserver, RecordingObserver
from trackside.testing.run_order import assert_run_order

__all__ = [
    "DeadlockError",
    "HorizonError",
    "Misbehaviour",
    "RecordingBatchObserver",
    "RecordingObserver",
    "VirtualClock",
    "VirtualTimeLoop",
    "assert_run_order",
    "make_event",
    "make_run",
    "run_virtual",
]
