"""What holds for every store."""

from __future__ import annotations

from typing import Any, ClassVar, override

from trackside.testing.contracts._kept_payloads import PayloadPromises
from trackside.testing.contracts._log import LogPromises
from trackside.testing.contracts._readers import ReaderPromises
from trackside.testing.contracts.stores import Stores


class StoreContract(LogPromises, PayloadPromises, ReaderPromises):
    """The contract of a store; subclass it and define the fixture `stores`, which gives `Stores`.

    Their log is empty at the beginning of each test. The fixture may be async.

        class TestMyStore(StoreContract):
            durable = True

            @pytest.fixture
            def stores(self, tmp_path: Path) -> Stores:
                return Stores(lambda: MyStore.open(tmp_path / "log"))
    """

    contract_fixture = "stores"

    durable: ClassVar[bool] = False
    """Events for which `append` has returned are there when the log is opened again."""

    shared: ClassVar[bool] = False
    """Several stores, opened side by side, share one log."""

    rows: ClassVar[bool] = False
    """It has `run(run_id)` and `thread(thread_id)`; see `stores.RowStore`."""

    follows: ClassVar[bool] = False
    """It has `follow(after)`; see `stores.FollowedStore`."""

    @override
    def check_fixture(self, given: Any) -> None:
        assert isinstance(given, Stores), f"the fixture `stores` gave {given!r} instead of `Stores`"
