"""Tells OpenLineage about runs, so that data teams see agent runs beside their jobs.

An agent is a job there, and its run a run of that job: `run_started` is a START, `run_completed` a COMPLETE, `run_failed` a
FAIL, `run_cancelled` an ABORT. A run that waits for a human is complete, too, because it is over, and the answer starts
another run; a facet says that it was interrupted.

The observer uses the library's transports, but not its client, which would add to each event what it finds in the
environment.
"""

try:
    from trackside.app.observers.openlineage._observer import OpenLineageObserver, TracksideRunFacet
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"OpenLineage needs {missing.name}, which is not installed: pip install 'trackside[openlineage]'",
        name=missing.name,
    ) from missing

__all__ = ["OpenLineageObserver", "TracksideRunFacet"]
