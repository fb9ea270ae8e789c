"""Our own observers keep the observer contract."""

import pytest

from trackside.harness import CallbackObserver, CompositeObserver, NullObserver, RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import RecordingBatchObserver, RecordingObserver
from trackside.testing.contracts import ObserverContract


def ids(recorder: RecordingObserver) -> list[str]:
    return [event.event_id for event in recorder.events]


class TestNullObserver(ObserverContract):
    virtual_time = True

    @pytest.fixture
    def observer(self) -> NullObserver:
        return NullObserver()


class TestCallbackObserver(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture
    def observer(self) -> CallbackObserver:
        self.seen: list[str] = []

        async def callback(event: RunLifecycleEvent) -> None:
            self.seen.append(event.event_id)

        return CallbackObserver(callback)

    async def effects(self, observer: CallbackObserver) -> list[str]:
        return self.seen


class TestRecordingObserver(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture
    async def observer(self) -> RecordingObserver:
        return RecordingObserver()

    async def effects(self, observer: RecordingObserver) -> list[str]:
        return ids(observer)


class TestRecordingBatchObserver(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture
    def observer(self) -> RecordingBatchObserver:
        return RecordingBatchObserver()

    async def effects(self, observer: RecordingBatchObserver) -> list[str]:
        return ids(observer)


class TestCompositeObserver(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture
    def observer(self) -> CompositeObserver:
        self.last = RecordingBatchObserver()
        return CompositeObserver([NullObserver(), RecordingObserver(), self.last])

    async def effects(self, observer: CompositeObserver) -> list[str]:
        return ids(self.last)


class TestBufferedObserver(ObserverContract):
    virtual_time = True
    complete = True
    accounts = True

    @pytest.fixture
    def observer(self) -> BufferedObserver:
        self.behind = RecordingBatchObserver()
        return BufferedObserver(self.behind)

    async def effects(self, observer: BufferedObserver) -> list[str]:
        assert (await observer.flush(1.0)).complete
        return ids(self.behind)


class Counting(RecordingBatchObserver):
    """Does something with each event that the `on_events` it inherits knows nothing of: it is given no batches."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[str] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(event)
        self.counted.append(event.event_id)


class TestObserverOfSingleEvents(ObserverContract):
    virtual_time = True
    complete = True

    @pytest.fixture
    def observer(self) -> Counting:
        return Counting()

    async def effects(self, observer: Counting) -> list[str]:
        return observer.counted
