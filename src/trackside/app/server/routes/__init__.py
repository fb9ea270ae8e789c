"""The endpoints, one module for each thing that clients work with. `GROUPS` has all of them, the hottest first."""

from trackside.app.server.routes import (
    assistants,
    crons,
    documents,
    events,
    health,
    info,
    items,
    protocol,
    records,
    run_cancels,
    run_records,
    run_streams,
    runs,
    states,
    subscriptions,
    threads,
)

GROUPS = (
    runs.routes,
    run_streams.routes,
    run_records.routes,
    run_cancels.routes,
    protocol.routes,
    threads.routes,
    states.routes,
    assistants.routes,
    crons.routes,
    events.routes,
    items.routes,
    records.routes,
    subscriptions.routes,
    health.routes,
    info.routes,
    documents.routes,
)
