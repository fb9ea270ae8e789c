"""The harness: runs agents and announces what happens to them. It knows no storage, no web, no metrics.

Inside, imports go downwards only: `manager`, `embedded` → `execution` → `worker`, `adapters` → `context`, `ending` →
`emitter`, `journal`, `memory`, `admission`, `steady`, `failures` → `dispatch` → `buffered` → `backlog`, `timelimit` →
`observer`, `ports` → `lifecycle` → `payload` → `types` → `errors`, `ids`.
"""

from trackside.harness.adapters import as_agent
from trackside.harness.backlog import EventGap
from trackside.harness.buffered import BufferedObserver, BufferStats, FlushReport
from trackside.harness.context import Agent, AgentResult, RunContext, current_run
from trackside.harness.dispatch import DispatchPolicy
from trackside.harness.embedded import run_agent
from trackside.harness.errors import (
    ClosedError,
    DuplicateRunError,
    InvalidSpecError,
    NoResultHereError,
    NotAnAgentError,
    NotAnObserverError,
    PayloadError,
    ThreadBusyError,
    TracksideError,
    UnknownAgentError,
    UnknownRunError,
)
from trackside.harness.manager import RunHandle, RunManager
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
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import (
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
    "AgentResult",
    "BatchRunObserver",
    "BufferStats",
    "BufferedObserver",
    "CallbackObserver",
    "CancelAction",
    "CancelMode",
    "ClosedError",
    "CompositeObserver",
    "DispatchPolicy",
    "DuplicateRunError",
    "EventGap",
    "FlushReport",
    "InvalidSpecError",
    "LifecycleEventType",
    "MissedEventsObserver",
    "MultitaskStrategy",
    "NoResultHereError",
    "NotAnAgentError",
    "NotAnObserverError",
    "NullObserver",
    "ObserverBinding",
    "ObserverLike",
    "PayloadError",
    "RunContext",
    "RunEventCallback",
    "RunHandle",
    "RunLifecycleEvent",
    "RunManager",
    "RunObserver",
    "RunRecord",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "StreamGap",
    "StreamPart",
    "ThreadBusyError",
    "ThreadStatus",
    "TracksideError",
    "UnknownAgentError",
    "UnknownRunError",
    "as_agent",
    "current_run",
    "ensure_observer",
    "run_agent",
]
