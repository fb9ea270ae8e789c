"""All pages of the console, and the middleware in front of them."""

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
    run_actions,
    runs,
    subscription_actions,
    subscriptions,
    system,
    thread,
    thread_actions,
    threads,
    workers,
)

GROUPS = (
    overview.routes,
    runs.routes,
    run.routes,
    run_actions.routes,
    threads.routes,
    thread.routes,
    thread_actions.routes,
    agents.routes,
    subscriptions.routes,
    subscription_actions.routes,
    workers.routes,
    log.routes,
    system.routes,
    live.routes,
    sign_in.routes,
    assets.routes,
    nowhere.routes,
)


def browsing(*, asks: bool) -> Middleware:
    """The middleware that makes browsers' requests such as the API knows, and its refusals such as people can read.

    Args:
        asks: whether users must authenticate.
    """
    return Middleware(Browsing, asks=asks)
