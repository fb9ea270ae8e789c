"""What is done to a system: each fault is a class that says what it does and needs, and has `inject` and `heal`.

A fault that a system cannot have (of the broker where there is none) is not its `concern`; a fault that needs rights or
programs that are missing says so, and is skipped with that reason.
"""

from tests.torture.faults._fault import Fault, Kind
from tests.torture.faults.cuts import CutBoth, CutBroker, CutDatabase
from tests.torture.faults.kills import KillAtPoint, KillReceiver, KillServer, KillSeveral, KillUser, KillWorker
from tests.torture.faults.shortages import Descriptors, FullDisk, Memory
from tests.torture.faults.stops import BrokerLost, BrokerRestart, DatabaseStop
from tests.torture.faults.times import ClockJump, SlowDisk, Standstill

__all__ = ["FAULTS", "Fault", "Kind"]

FAULTS: list[type[Fault]] = [
    KillServer,
    KillWorker,
    KillSeveral,
    KillAtPoint,
    KillUser,
    KillReceiver,
    DatabaseStop,
    BrokerRestart,
    BrokerLost,
    CutDatabase,
    CutBroker,
    CutBoth,
    FullDisk,
    Memory,
    Descriptors,
    ClockJump,
    SlowDisk,
    Standstill,
]
