"""The beginning and the end of a run's live output, which may fail without any harm to the run; and where that output
can be heard.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trackside.harness.ports import RunStream
from trackside.harness.running.logs import fields_of
from trackside.harness.types import RunRecord, RunSpec

logger = logging.getLogger("trackside.stream")


def begin_stream(stream: RunStream, run: RunRecord, spec: RunSpec, *, started: bool = True) -> None:
    """Tell a stream that wants to know (`RunStream`) who a run is, before it says anything or ends without a start."""
    begin = getattr(stream, "begin", None)
    if begin is None:
        return
    try:
        begin(run, spec, started=started)
    except Exception:  # the stream's failure: the run has others who want it
        logger.exception("the stream of run %s could not be begun", run.run_id, extra=fields_of(run))


def close_stream(stream: RunStream, run: RunRecord, end: Mapping[str, Any] | None = None) -> None:
    """Tell a stream that no more parts of a run will come, and what its last event says; if the stream fails, that is
    logged.
    """
    try:
        stream.close(run.run_id, end=end)
    except Exception:  # the stream's failure, and its followers'; the run's thread has to be given back all the same
        text = "the stream of run %s could not be closed; whoever follows it may wait in vain"
        logger.exception(text, run.run_id, extra=fields_of(run))


def is_heard(stream: RunStream, run_id: str) -> bool:
    """Whether a stream gets what a run says that another process executes (`RunStream`)."""
    if not getattr(stream, "local", False):
        return True
    is_mirrored = getattr(stream, "is_mirrored", None)
    return is_mirrored is not None and bool(is_mirrored(run_id))
