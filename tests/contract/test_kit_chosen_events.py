"""What stands between the events and an observer that wants some of them is an observer like any other."""

import pytest

from trackside.app.wiring.choosing import ChosenEvents, EventChoice
from trackside.harness import LifecycleEventType
from trackside.testing import ObserverContract, RecordingBatchObserver, RecordingObserver


class TestChosenEvents(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture(params=[RecordingObserver, RecordingBatchObserver])
    def observer(self, request: pytest.FixtureRequest) -> ChosenEvents:
        self.recording: RecordingObserver | RecordingBatchObserver = request.param()
        return ChosenEvents(self.recording, EventChoice(LifecycleEventType, None))

    async def effects(self, observer: ChosenEvents) -> list[str]:
        return [event.event_id for event in self.recording.events]
