"""The harness runs agents and announces what happens to them. It knows nothing of storage, the web or metrics.

Imports inside the harness go downwards only, in the order of the contract `harness-layers` in `pyproject.toml`.
ARCHITECTURE.md says what each module is for.
"""

from trackside.harness.adapters import as_agent
from trackside.harness.backlog import EventGap
from trackside.harness.bounding import DispatchPolicy
from trackside.harness.buffered import BufferedObserver, BufferStats, FlushReport
from trackside.harness.context import Agent, AgentResult, RunContext, current_run
from trackside.harness.embedded import run_agent
from trackside.harness.ending import StopPolicy
from trackside.harness.errors import (
    ClosedError,
    ClosesItselfError,
    DuplicateRunError,
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
from trackside.harness.handle import RunHandle
from trackside.harness.logs import RunFieldsFilter, run_fields
from trackside.harness.manager import RunManager
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
from trackside.harness.ports import PriceList, StreamGap, StreamPart
from trackside.harness.redaction import Redact
from trackside.harness.stats import ManagerStats
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
