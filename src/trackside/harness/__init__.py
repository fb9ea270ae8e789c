"""The harness runs agents and announces what happens to them. It knows nothing of storage, the web or metrics.

Imports inside the harness go downwards only, in the order of the contract `harness-layers` in `pyproject.toml`.
ARCHITECTURE.md says what each module is for.
"""

from trackside.harness.adapters import as_agent
from trackside.harness.context import Agent, AgentResult, RunContext, current_run
from trackside.harness.embedded import run_agent
from trackside.harness.errors import (
    ClosedError,
    ClosesItselfError,
    DuplicateRunError,
    HeldByCallerError,
    InvalidBufferError,
    InvalidCallError,
    InvalidReportError,
    InvalidSpecError,
    InvalidUsageError,
    ManagerLoopError,
    NoResultHereError,
    NoStreamHereError,
    NotAgentsError,
    NotAnAgentError,
    NotAnObserverError,
    NotASpecError,
    NotObserversError,
    OtherLoopError,
    PayloadError,
    RunDepthError,
    ThreadBusyError,
    TracksideError,
    UnknownAgentError,
    UnknownRunError,
    UnknownThreadError,
    WaitsForItselfError,
)
from trackside.harness.manager import RunManager
from trackside.harness.managing.handle import RunHandle
from trackside.harness.managing.stats import ManagerStats
from trackside.harness.observer import (
    BatchRunObserver,
    CallbackObserver,
    CompositeObserver,
    LifecycleEventType,
    MissedEventsObserver,
    NullObserver,
    ObserverBinding,
    ObserverLike,
    RunEventCallback,
    RunLifecycleEvent,
    RunObserver,
    RunResult,
    ensure_observer,
)
from trackside.harness.observing.backlog import EventGap
from trackside.harness.observing.bounding import DispatchPolicy
from trackside.harness.observing.buffered import BufferedObserver, BufferStats, FlushReport
from trackside.harness.ports import PriceList, StreamGap, StreamPart
from trackside.harness.redaction import Redact
from trackside.harness.running.ending import StopPolicy
from trackside.harness.running.logs import RunFieldsFilter, run_fields
from trackside.harness.types import (
    AgentLimits,
    CancelAction,
    CancelMode,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

__all__ = [
    "Agent",
    "AgentLimits",
    "AgentResult",
    "BatchRunObserver",
    "BufferStats",
    "BufferedObserver",
    "CallbackObserver",
    "CancelAction",
    "CancelMode",
    "ClosedError",
    "ClosesItselfError",
    "CompositeObserver",
    "DispatchPolicy",
    "DuplicateRunError",
    "EventGap",
    "FlushReport",
    "HeldByCallerError",
    "InvalidBufferError",
    "InvalidCallError",
    "InvalidReportError",
    "InvalidSpecError",
    "InvalidUsageError",
    "LifecycleEventType",
    "ManagerLoopError",
    "ManagerStats",
    "MissedEventsObserver",
    "MultitaskStrategy",
    "NoResultHereError",
    "NoStreamHereError",
    "NotASpecError",
    "NotAgentsError",
    "NotAnAgentError",
    "NotAnObserverError",
    "NotObserversError",
    "NullObserver",
    "ObserverBinding",
    "ObserverLike",
    "OtherLoopError",
    "PayloadError",
    "PriceList",
    "Redact",
    "RunContext",
    "RunDepthError",
    "RunEventCallback",
    "RunFieldsFilter",
    "RunHandle",
    "RunLifecycleEvent",
    "RunManager",
    "RunObserver",
    "RunRecord",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "StopPolicy",
    "StreamGap",
    "StreamPart",
    "ThreadBusyError",
    "ThreadStatus",
    "TracksideError",
    "UnknownAgentError",
    "UnknownRunError",
    "UnknownThreadError",
    "WaitsForItselfError",
    "as_agent",
    "current_run",
    "ensure_observer",
    "run_agent",
    "run_fields",
]
