"""A whole fleet on this machine, from packages alone: PostgreSQL, NATS, servers and workers as processes of this one.

They listen on loopback, want a password, and live no longer than the process that started them. This is for trying
things out and for development; on many machines these parts are installed and looked after otherwise.
"""

from trackside.app.engine.local.errors import DataFolderError, LocalServerError, NotInstalledError
from trackside.app.engine.local.fleet import FleetPlan, LocalFleet
from trackside.app.engine.local.members import Happening, Member, MemberKind, MemberState

__all__ = [
    "DataFolderError",
    "FleetPlan",
    "Happening",
    "LocalFleet",
    "LocalServerError",
    "Member",
    "MemberKind",
    "MemberState",
    "NotInstalledError",
]
