"""Runs that somebody wants once more."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from trackside.app.server.authorizing import About
from trackside.app.server.calls import uuid_of
from trackside.app.server.failures import answer_of
from trackside.app.server.following import run_headers
from trackside.app.server.principal import Permission
from trackside.app.server.responses import empty, json_reply
from trackside.app.server.retrying import retried
from trackside.app.server.routing import Call, Routes
from trackside.app.server.starting import part_of
from trackside.app.server.wire.runs import RetriedRun, RetryMany, Run
from trackside.harness.errors import TracksideError

routes = Routes("Runs")


@routes.post("/runs/{run_id}/retry", Permission.run, about=About("threads", "create_run", "each"), answers={200: Run})
async def retry_run(call: Call[None, None]) -> Any:
    """Retry a run that has ended: do what it was asked to do once more, as another attempt of it.

    The new run is in the background, on the same thread. If that thread was made for the old run and ended with it, the
    new run is on a new thread. With the header `Idempotency-Key`, a request that is sent again finds the run that it
    made before.
    """
    run = await retried(call, call.run_id, key=call.header("idempotency-key"))
    headers = run_headers(run.handle.thread_id, run.handle.run_id, stateless=run.stateless)
    return empty(headers=headers) if call.wants_little else json_reply(run.shown, headers=headers)


@routes.post(
    "/runs/retry",
    Permission.run,
    about=About("threads", "create_run", "each"),
    body=RetryMany,
    answers={200: list[RetriedRun]},
)
async def retry_runs(call: Call[RetryMany, None]) -> Any:
    """Retry several runs. The response says what became of each; one that cannot be retried holds up no other.

    With the header `Idempotency-Key`, a request that is sent again finds the runs that it made before.
    """
    run_ids = dict.fromkeys(uuid_of(run_id, "run_ids") for run_id in call.body.run_ids)
    became: list[RetriedRun] = []
    key = call.header("idempotency-key")
    denied: TracksideError | None = None
    for run_id in run_ids:
        try:
            run = await retried(call, run_id, key=key, part=part_of(run_id))
        except TracksideError as exc:
            status, why = answer_of(exc)[:2]
            denied = exc if status == HTTPStatus.FORBIDDEN and len(became) == 0 else denied
            became.append(RetriedRun(run_id=run_id, error=why))
        else:
            became.append(RetriedRun(run_id=run_id, new_run_id=run.handle.run_id))
    if denied is not None and all(one.error == became[0].error for one in became):
        raise denied  # a caller who may start none of them may not do this at all
    return became
