"""An SQLite database whose file may not grow as it would, as on a disk that is full."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from trackside.app.storage import Store

ENOUGH_FOR_EVENTS = 300
"""Pages that the events of a few small runs do not fill."""


class Room:
    """How large the file of a store's database may become; each connection with which the store writes is limited."""

    def __init__(self, store: Store) -> None:
        self._session: Any = store._writer._session  # type: ignore[union-attr]
        self._most: int | None = None
        event.listen(self._session._engine, "connect", self._limit)

    def leave(self, pages: int) -> None:
        """Leave so many pages beside those that are used; the connection that there is has to be at rest."""
        driver = self._session._driver
        ((used,),) = driver.execute("PRAGMA page_count").fetchall()
        self._most = used + pages
        self._limit(driver)

    def make(self) -> None:
        """Limit no connection that is made from now on; one is, once a write has found no room."""
        self._most = None

    def _limit(self, driver: Any, *_: Any) -> None:
        if self._most is not None:
            driver.execute(f"PRAGMA max_page_count = {self._most}")
