"""The metrics observer keeps the observer contract."""

import pytest

from trackside.app.observers.metrics import MetricsObserver
from trackside.testing.contracts import ObserverContract


class TestMetricsObserver(ObserverContract):
    virtual_time = True

    @pytest.fixture
    def observer(self) -> MetricsObserver:
        return MetricsObserver()
