"""Makes what starts the runs of crons, in a server or in a process of a fleet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trackside.app.server.crons import CronScheduler
    from trackside.app.settings import Settings
    from trackside.app.storage import Store
    from trackside.harness import RunManager


def scheduling(settings: Settings, store: Store, manager: RunManager) -> partial[CronScheduler]:
    """A cron scheduler that only lacks what says when it is on duty."""
    from trackside.app.server.crons import CronScheduler
    from trackside.app.server.run_webhooks import keep_ends

    return partial(
        CronScheduler,
        store.crons,
        manager,
        configurable_headers=settings.server.configurable_headers,
        keep_ends=partial(keep_ends, store.subscriptions) if settings.redact is None else None,
    )
