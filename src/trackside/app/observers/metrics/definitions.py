"""Every metric there is, in one table: what the observer exposes, what the documentation and the dashboard are made of.

Names follow Prometheus' conventions: base units, the unit at the end of the name, `_total` for what only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, assert_never

type Unit = Literal["", "seconds", "bytes", "usd", "tokens"]


class Kind(StrEnum):
    """What Prometheus knows a metric as."""

    counter = "counter"
    gauge = "gauge"
    histogram = "histogram"
    summary = "summary"
    """A count and a sum, without quantiles: what an average is made of."""
    info = "info"
    """Always 1; its labels are what it says."""


class Source(StrEnum):
    """Where the numbers of a metric come from."""

    events = "events"
    """From the events that the observer was given."""
    vitals = "vitals"
    """From the app, when somebody scrapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric. `help` is a sentence for people; `unit`, if there is one, is part of the name, too."""

    name: str
    kind: Kind
    help: str
    source: Source
    labels: tuple[str, ...] = ()
    unit: Unit = ""

    @property
    def series(self) -> tuple[str, ...]:
        """What its time series are called, which is what a query asks for."""
        match self.kind:
            case Kind.counter | Kind.gauge | Kind.info:
                return (self.name,)
            case Kind.summary:
                return (f"{self.name}_count", f"{self.name}_sum")
            case Kind.histogram:
                return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
            case _:
                assert_never(self.kind)


def _counted(name: str, labels: tuple[str, ...], help: str, unit: Unit = "") -> Definition:
    return Definition(name=name, kind=Kind.counter, help=help, source=Source.events, labels=labels, unit=unit)


def _seen(kind: Kind, name: str, labels: tuple[str, ...], help: str, unit: Unit = "") -> Definition:
    return Definition(name=name, kind=kind, help=help, source=Source.vitals, labels=labels, unit=unit)


RUNS_STARTED = _counted("trackside_runs_started_total", ("agent",), "Runs that started.")
RUNS = _counted("trackside_runs_total", ("agent", "status"), "Runs that ended, also those that never started.")
RUN_DURATION = Definition(
    name="trackside_run_duration_seconds",
    kind=Kind.histogram,
    help="How long the runs took that started and ended.",
    source=Source.events,
    labels=("agent", "status"),
    unit="seconds",
)
RUN_FAILURES = _counted("trackside_run_failures_total", ("error_type",), "Runs that failed or timed out, by the error.")
RUN_TOKENS = _counted(
    "trackside_run_tokens_total",
    ("model", "direction"),
    "Tokens that runs used; cache_read and cache_write are part of input, and reasoning part of output.",
    "tokens",
)
RUN_COST = _counted("trackside_run_cost_usd_total", ("agent",), "What runs cost, as far as prices are known.", "usd")
MODEL_COST = _counted(
    "trackside_model_cost_usd_total", ("model",), "What calls of models cost, as far as prices are known.", "usd"
)
LLM_CALLS = _counted("trackside_llm_calls_total", ("agent",), "Calls of models that gave an answer, or used something.")
LLM_ERRORS = _counted(
    "trackside_llm_errors_total", ("agent",), "Calls of models that failed, also those that used nothing."
)
TOOL_CALLS = _counted("trackside_tool_calls_total", ("agent",), "Calls of tools.")
TOOL_ERRORS = _counted(
    "trackside_tool_errors_total", ("agent",), "Calls of tools that failed, among the first 1,000 calls of each run."
)
CALL_DURATION = Definition(
    name="trackside_call_duration_seconds",
    kind=Kind.histogram,
    help="How long calls of models, tools and other agents took, where that was measured.",
    source=Source.events,
    labels=("kind",),
    unit="seconds",
)
HUMAN_MESSAGES = _counted("trackside_human_messages_total", ("agent",), "Messages that humans gave to runs.")

RUNS_ACTIVE = _seen(Kind.gauge, "trackside_runs_active", ("agent",), "Runs that execute, or whose end is announced.")
RUNS_QUEUED = _seen(
    Kind.gauge, "trackside_runs_queued", ("waiting_for",), "Runs that wait for a place, their thread or their time."
)
RUNS_STUCK = _seen(
    Kind.gauge, "trackside_runs_stuck", (), "Runs that do not stop when cancelled, or do not come to their ends."
)
STUCK_RUNS = _seen(
    Kind.counter, "trackside_stuck_runs_total", (), "Runs that did not stop, or come to their ends, in time."
)
MISSED_EVENTS = _seen(
    Kind.counter,
    "trackside_missed_events_total",
    ("outcome",),
    "Events that a required observer did not take: kept for later, or lost.",
)
LOOP_BLOCKS = _seen(Kind.counter, "trackside_loop_blocks_total", (), "Times that the event loop was found blocked.")
SPOOLED_RUNS = _seen(Kind.gauge, "trackside_spooled_runs", (), "Runs whose rest waits on this disk for the database.")

OBSERVER_LAG = _seen(
    Kind.gauge,
    "trackside_observer_lag_seconds",
    ("observer",),
    "How old the oldest event is that waits for the observer.",
    "seconds",
)
OBSERVER_ACCEPTED = _seen(
    Kind.counter, "trackside_observer_accepted_events_total", ("observer",), "Events accepted for the observer."
)
OBSERVER_DELIVERED = _seen(
    Kind.counter, "trackside_observer_delivered_events_total", ("observer",), "Events that the observer took."
)
OBSERVER_FAILED = _seen(
    Kind.counter, "trackside_observer_failed_events_total", ("observer",), "Events on which the observer failed."
)
OBSERVER_DROPPED = _seen(
    Kind.counter,
    "trackside_observer_dropped_events_total",
    ("observer", "reason"),
    "Events that the observer was never given.",
)
OBSERVER_PENDING = _seen(
    Kind.gauge, "trackside_observer_pending_events", ("observer",), "Events that wait for the observer."
)
OBSERVER_DEFERRED = _seen(
    Kind.gauge,
    "trackside_observer_deferred_events",
    ("observer",),
    "Of the events that wait, those that do so in the log.",
)
OBSERVER_REREAD = _seen(
    Kind.counter, "trackside_observer_reread_events_total", ("observer",), "Events that were read again from the log."
)
OBSERVER_PENDING_BYTES = _seen(
    Kind.gauge,
    "trackside_observer_pending_bytes",
    ("observer",),
    "About what the events that wait take in memory.",
    "bytes",
)
OBSERVER_LEFT_BEHIND = _seen(
    Kind.gauge, "trackside_observer_left_behind_calls", ("observer",), "Calls that still run past their time limit."
)

STORAGE_BATCH_DURATION = _seen(
    Kind.summary,
    "trackside_storage_batch_duration_seconds",
    (),
    "How long the transactions took, from BEGIN to the answer to COMMIT.",
    "seconds",
)
STORAGE_BATCH_SIZE = _seen(
    Kind.summary, "trackside_storage_batch_events", (), "How many events were in the transactions."
)
STORAGE_REQUESTS = _seen(
    Kind.counter, "trackside_storage_requests_total", (), "Requests that the transactions took together."
)
STORAGE_FAILURES = _seen(Kind.counter, "trackside_storage_failed_batches_total", (), "Transactions that failed.")
STORAGE_PENDING = _seen(
    Kind.gauge, "trackside_storage_pending_requests", (), "Requests that wait for a transaction now."
)

SUBSCRIPTION_ACTIVE = _seen(
    Kind.gauge, "trackside_subscription_active", ("subscription",), "1 if this process feeds the subscription, else 0."
)
SUBSCRIPTION_PAUSED = _seen(
    Kind.gauge, "trackside_subscription_paused", ("subscription",), "1 if the subscription is paused, else 0."
)
SUBSCRIPTION_LAG = _seen(
    Kind.gauge,
    "trackside_subscription_lag_seconds",
    ("subscription",),
    "How old the oldest event is that was read and not handled yet.",
    "seconds",
)
SUBSCRIPTION_PENDING = _seen(
    Kind.gauge,
    "trackside_subscription_pending_events",
    ("subscription",),
    "Events that the observer has in hand.",
)
SUBSCRIPTION_READ = _seen(
    Kind.counter, "trackside_subscription_read_events_total", ("subscription",), "Events read from the log."
)
SUBSCRIPTION_HANDLED = _seen(
    Kind.counter, "trackside_subscription_handled_events_total", ("subscription",), "Events that the observer took."
)
SUBSCRIPTION_PARKED = _seen(
    Kind.counter, "trackside_subscription_parked_events_total", ("subscription",), "Events that were given up for now."
)
SUBSCRIPTION_RETURNED = _seen(
    Kind.counter,
    "trackside_subscription_returned_events_total",
    ("subscription",),
    "Events that were given back unhandled, to be delivered again, here or elsewhere.",
)
SUBSCRIPTION_FAILED_CALLS = _seen(
    Kind.counter,
    "trackside_subscription_failed_calls_total",
    ("subscription",),
    "Calls of the observer that failed; each is tried again or parked.",
)

ENGINE_CONNECTED = _seen(
    Kind.gauge, "trackside_engine_connected", ("engine",), "1 if the engine moves runs now, 0 if it is cut off."
)
ENGINE_RECONNECTS = _seen(
    Kind.counter,
    "trackside_engine_reconnects_total",
    (),
    "Times that the engine was reached again after it was cut off.",
)
ENGINE_ANNOUNCED = _seen(Kind.counter, "trackside_engine_announced_runs_total", (), "Runs that workers were told of.")
ENGINE_ANNOUNCE_FAILURES = _seen(
    Kind.counter,
    "trackside_engine_unannounced_runs_total",
    (),
    "Runs that workers could not be told of; a sweep finds them.",
)
ENGINE_OFFERS = _seen(Kind.counter, "trackside_engine_offers_total", (), "Offers that this worker got.")
ENGINE_REDELIVERED = _seen(
    Kind.counter,
    "trackside_engine_redelivered_offers_total",
    (),
    "Of the offers, those that had been somebody's before.",
)
ENGINE_STOPS = _seen(
    Kind.counter, "trackside_engine_stops_total", ("direction",), "Words that a run shall stop: sent, and heard."
)
ENGINE_MESSAGES = _seen(
    Kind.counter,
    "trackside_engine_messages_total",
    ("outcome",),
    "Messages of live output: said, heard, or refused, which is that they could not be sent.",
)
ENGINE_UNREADABLE = _seen(
    Kind.counter,
    "trackside_engine_unreadable_messages_total",
    (),
    "Messages on the broker's subjects of this fleet that nobody of it has sent; they are ignored.",
)

WORKER_PLACES = _seen(Kind.gauge, "trackside_worker_places", (), "How many runs this worker executes at once.")
WORKER_RUNNING = _seen(Kind.gauge, "trackside_worker_running_runs", (), "Places of this worker that are taken.")
WORKER_TAKEN = _seen(Kind.counter, "trackside_worker_taken_runs_total", (), "Runs that this worker took.")
WORKER_FOUND = _seen(
    Kind.counter,
    "trackside_worker_found_runs_total",
    (),
    "Of the runs taken, those that it found in the database without an offer.",
)
WORKER_LOST = _seen(
    Kind.counter,
    "trackside_worker_lost_runs_total",
    (),
    "Runs that were somebody else's, or had ended, before they had ended here.",
)
WORKER_VAIN_OFFERS = _seen(
    Kind.counter,
    "trackside_worker_vain_offers_total",
    ("reason",),
    "Offers of runs that were not to be had any more (missed), or whose agent or version is not here (foreign).",
)

DUTY_HELD = _seen(
    Kind.gauge, "trackside_duty_held", ("duty",), "1 if this process does it for all of the fleet, else 0."
)
QUEUE_RUNS = _seen(
    Kind.gauge,
    "trackside_queue_runs",
    ("pool", "state"),
    "Runs in the whole fleet that are ready to be taken, wait for their thread or their time, or run.",
)
QUEUE_OLDEST = _seen(
    Kind.gauge,
    "trackside_queue_oldest_ready_seconds",
    ("pool",),
    "How long a run has waited for a worker, at the most: since it was let in, was due and had its thread.",
    "seconds",
)
QUEUE_WORKERS = _seen(Kind.gauge, "trackside_queue_workers", ("pool",), "Workers that are alive and do not drain.")
QUEUE_PLACES = _seen(Kind.gauge, "trackside_queue_places", ("pool",), "How many runs these workers execute at once.")
QUEUE_UNSERVED = _seen(
    Kind.gauge, "trackside_queue_unserved_runs", ("agent",), "Runs that wait and no live worker serves."
)

BUILD = _seen(Kind.info, "trackside_build_info", ("version", "python_version"), "Which Trackside this is.")

DEFINITIONS: tuple[Definition, ...] = tuple(value for value in [*globals().values()] if isinstance(value, Definition))
"""All of them, in the order in which they are exposed."""
