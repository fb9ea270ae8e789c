"""Every metric, in one table: what the observer exposes, and what the documentation and the dashboard are made from.

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
RUNS = _counted("trackside_runs_total", ("agent", "status"), "Runs that ended, including those that never started.")
RUN_DURATION = Definition(
    name="trackside_run_duration_seconds",
    kind=Kind.histogram,
    help="Durations of runs that started and ended.",
    source=Source.events,
    labels=("agent", "status"),
    unit="seconds",
)
RUN_FAILURES = _counted(
    "trackside_run_failures_total", ("error_type",), "Runs that failed or timed out, by the type of the error."
)
RUN_TOKENS = _counted(
    "trackside_run_tokens_total",
    ("model", "direction"),
    "Tokens that runs used; cache_read and cache_write are part of input, and reasoning part of output.",
    "tokens",
)
RUN_COST = _counted("trackside_run_cost_usd_total", ("agent",), "What runs cost, as far as prices are known.", "usd")
MODEL_COST = _counted(
    "trackside_model_cost_usd_total", ("model",), "What model calls cost, as far as prices are known.", "usd"
)
LLM_CALLS = _counted("trackside_llm_calls_total", ("agent",), "Model calls that gave an answer or used something.")
LLM_ERRORS = _counted(
    "trackside_llm_errors_total", ("agent",), "Model calls that failed, including those that used nothing."
)
TOOL_CALLS = _counted("trackside_tool_calls_total", ("agent",), "Tool calls.")
TOOL_ERRORS = _counted(
    "trackside_tool_errors_total", ("agent",), "Tool calls that failed, among the first 1,000 calls of each run."
)
CALL_DURATION = Definition(
    name="trackside_call_duration_seconds",
    kind=Kind.histogram,
    help="How long calls of models, tools and other agents took, where that was measured.",
    source=Source.events,
    labels=("kind",),
    unit="seconds",
)
HUMAN_MESSAGES = _counted("trackside_human_messages_total", ("agent",), "Messages that humans sent to runs.")

RUNS_ACTIVE = _seen(
    Kind.gauge, "trackside_runs_active", ("agent",), "Runs that are executing, or whose end is being announced."
)
RUNS_QUEUED = _seen(
    Kind.gauge,
    "trackside_runs_queued",
    ("waiting_for",),
    "Runs that wait for a place, for their thread or for their time.",
)
RUNS_STUCK = _seen(
    Kind.gauge, "trackside_runs_stuck", (), "Runs that do not stop when cancelled, or do not come to an end."
)
STUCK_RUNS = _seen(
    Kind.counter, "trackside_stuck_runs_total", (), "Runs that did not stop, or come to an end, in time."
)
MISSED_EVENTS = _seen(
    Kind.counter,
    "trackside_missed_events_total",
    ("outcome",),
    "Events that a required observer did not take: kept for later, or lost.",
)
LOOP_BLOCKS = _seen(Kind.counter, "trackside_loop_blocks_total", (), "How often the event loop was found blocked.")
SPOOLED_RUNS = _seen(
    Kind.gauge, "trackside_spooled_runs", (), "Runs of which the rest waits on this disk for the database."
)

OBSERVER_LAG = _seen(
    Kind.gauge,
    "trackside_observer_lag_seconds",
    ("observer",),
    "The age of the oldest event that waits for the observer.",
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
    "Of the events that wait for the observer, those that wait in the log.",
)
OBSERVER_REREAD = _seen(
    Kind.counter, "trackside_observer_reread_events_total", ("observer",), "Events that were read again from the log."
)
OBSERVER_PENDING_BYTES = _seen(
    Kind.gauge,
    "trackside_observer_pending_bytes",
    ("observer",),
    "About how much memory the events that wait take.",
    "bytes",
)
OBSERVER_LEFT_BEHIND = _seen(
    Kind.gauge,
    "trackside_observer_left_behind_calls",
    ("observer",),
    "Calls that are past their time limit and still run.",
)

STORAGE_BATCH_DURATION = _seen(
    Kind.summary,
    "trackside_storage_batch_duration_seconds",
    (),
    "How long transactions took, from BEGIN to the answer to COMMIT.",
    "seconds",
)
STORAGE_BATCH_SIZE = _seen(Kind.summary, "trackside_storage_batch_events", (), "How many events the transactions had.")
STORAGE_REQUESTS = _seen(
    Kind.counter, "trackside_storage_requests_total", (), "Requests that transactions took together."
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
    "The age of the oldest event that was read and is not handled yet.",
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
    Kind.counter,
    "trackside_subscription_parked_events_total",
    ("subscription",),
    "Events that were parked: given up for now.",
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
    "How often the engine was reached again after it was cut off.",
)
ENGINE_ANNOUNCED = _seen(Kind.counter, "trackside_engine_announced_runs_total", (), "Runs of which workers were told.")
ENGINE_ANNOUNCE_FAILURES = _seen(
    Kind.counter,
    "trackside_engine_unannounced_runs_total",
    (),
    "Runs of which workers could not be told; a sweep finds them.",
)
ENGINE_OFFERS = _seen(Kind.counter, "trackside_engine_offers_total", (), "Offers that this worker received.")
ENGINE_REDELIVERED = _seen(
    Kind.counter,
    "trackside_engine_redelivered_offers_total",
    (),
    "Of these offers, those that some worker had before.",
)
ENGINE_STOPS = _seen(
    Kind.counter, "trackside_engine_stops_total", ("direction",), "Messages that a run shall stop: sent, and heard."
)
ENGINE_MESSAGES = _seen(
    Kind.counter,
    "trackside_engine_messages_total",
    ("outcome",),
    "Messages of live output: said, heard, or refused, which means that they could not be sent.",
)
ENGINE_UNREADABLE = _seen(
    Kind.counter,
    "trackside_engine_unreadable_messages_total",
    (),
    "Messages on this fleet's subjects at the broker that nobody in the fleet has sent; they are ignored.",
)

WORKER_PLACES = _seen(Kind.gauge, "trackside_worker_places", (), "How many runs this worker executes at once.")
WORKER_RUNNING = _seen(Kind.gauge, "trackside_worker_running_runs", (), "Places of this worker that are taken.")
WORKER_TAKEN = _seen(Kind.counter, "trackside_worker_taken_runs_total", (), "Runs that this worker took.")
WORKER_FOUND = _seen(
    Kind.counter,
    "trackside_worker_found_runs_total",
    (),
    "Of the runs that this worker took, those that it found in the database without an offer.",
)
WORKER_LOST = _seen(
    Kind.counter,
    "trackside_worker_lost_runs_total",
    (),
    "Runs that belonged to somebody else, or had ended, before they ended here.",
)
WORKER_VAIN_OFFERS = _seen(
    Kind.counter,
    "trackside_worker_vain_offers_total",
    ("reason",),
    "Offers of runs that were no longer available (missed), or whose agent or version is not here (foreign).",
)

DUTY_HELD = _seen(
    Kind.gauge, "trackside_duty_held", ("duty",), "1 if this process has the duty for all of the fleet, else 0."
)
QUEUE_RUNS = _seen(
    Kind.gauge,
    "trackside_queue_runs",
    ("pool", "state"),
    "Runs in the whole fleet that are ready to be taken, wait for their thread or their time, or are running.",
)
QUEUE_OLDEST = _seen(
    Kind.gauge,
    "trackside_queue_oldest_ready_seconds",
    ("pool",),
    "The longest that a run has waited for a worker: since it was let in, was due and had its thread.",
    "seconds",
)
QUEUE_WORKERS = _seen(Kind.gauge, "trackside_queue_workers", ("pool",), "Workers that are alive and are not draining.")
QUEUE_PLACES = _seen(Kind.gauge, "trackside_queue_places", ("pool",), "How many runs these workers execute at once.")
QUEUE_UNSERVED = _seen(
    Kind.gauge, "trackside_queue_unserved_runs", ("agent",), "Runs that wait and that no live worker serves."
)

BUILD = _seen(Kind.info, "trackside_build_info", ("version", "python_version"), "The versions of Trackside and Python.")

DEFINITIONS: tuple[Definition, ...] = tuple(value for value in [*globals().values()] if isinstance(value, Definition))
"""All metrics, in the order in which they are exposed."""
