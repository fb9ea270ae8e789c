"""Named points at which a worker of a fleet kills itself, from the offer of a run to the end of its own life.

A worker with the variable `FLEET_POINT=moment|step|number` dies when it has come to that moment `number` times.
The steps of a run, and what is written to the database, are those of `crash_steps` and `crash_points`.
"""

from __future__ import annotations

from crash_points import DeadlyPoint
from crash_steps import STEPS_OF_RUN, DeadlyStep, Step

from trackside.app.engine.nats._offers import NatsOffer, NatsOffers
from trackside.app.engine.nats._wire import NatsWire
from trackside.app.engine.postgres._offers import PostgresOffers, RunOffer
from trackside.app.engine.postgres._wire import PostgresWire
from trackside.app.engine.worker import FleetWorker
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.fleet_store import FleetStore

VARIABLE = "FLEET_POINT"

STEPS_OF_WORKER = {
    "nats": {
        "be offered": Step(NatsOffers, "next"),
        "say live": Step(NatsWire, "say"),
        "acknowledge": Step(NatsOffer, "done"),
    },
    "postgres": {
        "be offered": Step(PostgresOffers, "next"),
        "say live": Step(PostgresWire, "say"),
        "acknowledge": Step(RunOffer, "done"),
    },
}
"""The steps that belong to the engine."""
STEPS_OF_ALL = {
    "take": Step(StoredCoordinator, "take"),
    "find": Step(StoredCoordinator, "take_any", bool),
    "see through": Step(FleetWorker, "_see_through"),
    "take no more": Step(FleetWorker, "stop"),
    "be idle": Step(FleetWorker, "until_idle"),
    "give duties back": Step(FleetStore, "release_duties"),
}
OF_A_RUN = ("claim", "begin", "recall", "prepare", "announce", "call", "remember", "settle", "release", "adopt")
"""The steps of the harness that a worker's runs pass."""
OF_A_PARTING = ("take no more", "be idle", "drain", "close the manager", "flush", "close the coordinator")
"""The steps that a worker reaches only at the end of its life."""
WRITES = ("before", "loaded", "written", "committed", "handed back")
WRITTEN = ("Take", "start", "end")


def install(point: str, engine: str) -> None:
    """From now on, watch for the point in this process."""
    moment, name, number = point.split("|")
    if moment in WRITES and name in {*WRITTEN, "Leave"}:
        DeadlyPoint(moment, name, int(number)).install()
        return
    steps = {**STEPS_OF_RUN, **STEPS_OF_ALL, **STEPS_OF_WORKER[engine]}
    DeadlyStep(moment, steps[name], int(number)).install()


def points(engine: str) -> list[tuple[str, str]]:
    """All points of a run's way through a worker."""
    own = {**{name: STEPS_OF_RUN[name] for name in OF_A_RUN}, **STEPS_OF_ALL, **STEPS_OF_WORKER[engine]}
    steps = [(moment, name) for name, step in own.items() if name not in NOT_SURE for moment in step.moments]
    return [*steps, *((moment, name) for moment in WRITES for name in WRITTEN)]


NOT_SURE = {*OF_A_PARTING, "find", "adopt", "give duties back"}
"""The steps that a worker reaches only if something else has happened."""


def parting_points() -> list[tuple[str, str]]:
    """All points of a worker's end."""
    own = {**STEPS_OF_RUN, **STEPS_OF_ALL}
    steps = [(moment, name) for name in OF_A_PARTING for moment in own[name].moments]
    return [*steps, *((moment, "Leave") for moment in ("before", "written", "committed"))]
