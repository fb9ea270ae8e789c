"""An observer behind a buffer that records what the buffer says it missed."""

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.backlog import EventGap
from trackside.testing import Misbehaviour, RecordingObserver


class GapRecorder(RecordingObserver):
    """Records gaps among the events, in order."""

    def __init__(self, *plan: Misbehaviour) -> None:
        super().__init__(*plan)
        self.seen: list[RunLifecycleEvent | EventGap] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(event)
        self.seen.append(event)

    async def on_gap(self, gap: EventGap) -> None:
        self.seen.append(gap)
