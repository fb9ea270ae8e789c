"""The endpoints, one module for each thing that clients work with. `GROUPS` has all of them, the hottest first."""

from trackside.app.server.routes import info, runs, threads

GROUPS = (runs.routes, threads.routes, info.routes)
