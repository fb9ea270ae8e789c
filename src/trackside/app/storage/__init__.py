"""The log of runs in a database: the only package that speaks SQL. It imports the harness, but no web and no commands."""

from trackside.app.storage._databases.postgres.bus import PostgresBus
from trackside.app.storage._reading.facts import StoreFacts, WorkerFacts
from trackside.app.storage._reading.follow import FollowOptions
from trackside.app.storage._reading.follower import Follower
from trackside.app.storage._reading.live_counts import LiveCounts
from trackside.app.storage._reading.run_search import FoundRuns, RunFilters
from trackside.app.storage._rows.records import (
    RunTotals,
    RunWithEvents,
    Stats,
    StoredEvent,
    StoredRun,
    StoredThread,
    TimeBucket,
    TokenTotals,
)
from trackside.app.storage._rows.run_places import RunPlace
from trackside.app.storage._threads.states import StoredThreadStates
from trackside.app.storage._writing.writer import WriteLimits
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.feeding import FeedCounts, FeedPolicy, SubscriptionFeed
from trackside.app.storage.importing import ImportReport
from trackside.app.storage.retention import PruneReport
from trackside.app.storage.store import Store
from trackside.app.storage.transfer import ExportReport

__all__ = [
    "ExportReport",
    "FeedCounts",
    "FeedPolicy",
    "FollowOptions",
    "Follower",
    "FoundRuns",
    "ImportReport",
    "LiveCounts",
    "PostgresBus",
    "PruneReport",
    "RunFilters",
    "RunPlace",
    "RunTotals",
    "RunWithEvents",
    "Stats",
    "Store",
    "StoreFacts",
    "StoredCoordinator",
    "StoredEvent",
    "StoredRun",
    "StoredThread",
    "StoredThreadStates",
    "SubscriptionFeed",
    "TimeBucket",
    "TokenTotals",
    "WorkerFacts",
    "WriteLimits",
]
