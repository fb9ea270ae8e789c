"""All pages of the console, and what stands before them."""

from __future__ import annotations

from starlette.middleware import Middleware

from trackside.app.dashboard import assets, live, sign_in
from trackside.app.dashboard.browsing import Browsing
from trackside.app.dashboard.pages import (
    agents,
    log,
    nowhere,
    overview,
    run,
    runs,
    subscriptions,
    system,
    threads,
)

GROUPS = (
    overview.routes,
    runs.routes,
    run.routes,
    threads.routes,
    agents.routes,
    subscriptions.routes,
    log.routes,
    system.routes,
    live.routes,
    sign_in.routes,
    assets.routes,
    nowhere.routes,
)


def browsing() -> Middleware:
    """What makes requests of browsers such as the API knows, and answers that it refuses such as people can read."""
    return Middleware(Browsing)
