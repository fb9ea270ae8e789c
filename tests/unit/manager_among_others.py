"""A manager that shares its coordinator and its log with others."""

import asyncio
from typing import Any

from tests.contract.shared_ports import SharedCoordinator, SharedLog
from tests.contract.ways_to_run import required

from trackside.harness import MultitaskStrategy, RunManager, RunRecord, RunResult, RunStatus
from trackside.harness.memory import MemoryStream
from trackside.harness.observing.bounding import RequiredObserver
from trackside.testing import RecordingObserver, VirtualClock

BUSY = "thread_status_updated busy"
LOST = ("error", "its worker is lost", "T", {"total_tokens": 7})


async def sleeper(input: Any) -> Any:
    await asyncio.sleep(100)
    return input


def summary(result: RunResult) -> tuple[str, str | None, str | None, dict[str, Any]]:
    return result.status, result.error, result.title, result.completion_data


class Fleet:
    """A manager, the coordinator and the log that it shares with others, and an observer behind the log."""

    def __init__(
        self, *, durable: bool = False, kind: type[SharedCoordinator] = SharedCoordinator, **options: Any
    ) -> None:
        self.coordinator = kind(clock=VirtualClock(), durable=durable)
        self.log = SharedLog(self.coordinator)
        self.behind = RecordingObserver()
        self.manager = RunManager(
            {"sleeper": sleeper},
            observers=[required(self.log), required(self.behind)],
            coordinator=self.coordinator,
            clock=VirtualClock(),
            **options,
        )

    def foreign(self, **fields: Any) -> RunRecord:
        """A run that another process has let in."""
        given = {"run_id": "foreign", "thread_id": "t", "agent": "sleeper", "multitask": MultitaskStrategy.enqueue}
        return RunRecord(status=RunStatus.pending, created_at=VirtualClock().now(), **given | fields)

    def check_quiet(self) -> None:
        """Check that nothing is held any more, and that observers behind the log saw what it took."""
        assert self.manager._runs.all() == []
        assert isinstance(stream := self.manager._services.stream, MemoryStream)
        assert stream._channels == {}
        for _, observer in self.manager.observers._wrapped.values():
            assert isinstance(observer, RequiredObserver)
            assert observer._held == observer._missed == {}
        assert self.coordinator._runs == self.coordinator._threads == {}
        assert [e.event_id for e in self.behind.events] == [e.event_id for e in self.log.events]
