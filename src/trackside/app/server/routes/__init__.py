"""The endpoints, one module for each thing that clients work with. `GROUPS` has all of them, the hottest first."""

from trackside.app.server.routes import documents, events, health, info, items, records, runs, subscriptions, threads

GROUPS = (
    runs.routes,
    threads.routes,
    events.routes,
    items.routes,
    records.routes,
    subscriptions.routes,
    health.routes,
    info.routes,
    documents.routes,
)
