"""What can be done with a run from its page: cancel it, ask for it again, also from where it began, or remove it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal

from trackside.app.attempts import last_attempt
from trackside.app.dashboard.declaring import API, Form, action
from trackside.app.dashboard.pages import _run_reading as reading
from trackside.app.dashboard.pages._run_commands import create_request, own_limits
from trackside.app.dashboard.questions import value_of
from trackside.app.dashboard.rendering import Said
from trackside.app.server.failures import HttpError
from trackside.app.server.routes import run_cancels, run_records, run_retries, runs, states, threads
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.log import RunDetails
from trackside.harness.errors import TracksideError, UnknownRunError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

routes = Routes("Console")

_CHECKPOINTS: Final = 1_000
"""How many checkpoints of a run are looked at in one request, the newest first."""


class Cancel(Form, kw_only=True):
    """How to cancel."""

    action: Literal["interrupt", "rollback"] = "interrupt"


@action(routes, "/ui/runs/{run_id}/cancel", body=Cancel)
async def cancel_run(call: Call[Cancel, None]) -> Any:
    """Stop a run, or the attempt as which it goes on, if that has not ended: its page may be a moment old."""
    run = await reading.last_attempt(call, await reading.details_of(call, call.run_id))
    if is_final(run.status):
        return Said(f"{_went_on(call, run)}It had already ended: {run.status.value}.")
    path = {"thread_id": run.thread_id, "run_id": run.run_id}
    await API.ask(call, run_cancels.cancel_run, path=path, query={"action": call.body.action})
    with suppress(UnknownRunError):  # a run that is rolled back is gone
        named = await reading.details_of(call, run.run_id)
        run = await last_attempt(named, partial(reading.next_attempt, call))  # it may have ended just before
    went_on = _went_on(call, run)
    if is_final(run.status) and run.status is not RunStatus.cancelled:
        return Said(f"{went_on}It has ended meanwhile: {run.status.value}.")
    if call.body.action == "rollback":
        return Said(f"{went_on}Cancelled: its thread goes back to what it was before.")
    return Said(f"{went_on}Cancelled: what it has done so far stays.")


def _went_on(call: Call[Any, Any], run: RunDetails) -> str:
    return "" if run.run_id == call.run_id else f"It went on as run {run.run_id}. "


@action(routes, "/ui/runs/{run_id}/delete", body=Form)
async def delete_run(call: Call[Form, None]) -> Any:
    """Remove a run."""
    run = await reading.details_of(call, call.run_id)
    await API.ask(call, run_records.delete_run, path={"thread_id": run.thread_id, "run_id": run.run_id})
    return Said("Run deleted. Its events stay in the log.", to="/ui/runs")


@action(routes, "/ui/runs/{run_id}/retry", body=Form)
async def retry_run(call: Call[Form, None]) -> Any:
    """Ask for the same once more, as another attempt."""
    started = (await API.ask(call, run_retries.retry_run)).value
    return Said("Retried: this is the new run.", to=f"/ui/runs/{started.run_id}")


class Fork(Form, kw_only=True):
    """What the new run gets; the same if nothing is said."""

    input: str | None = None


@action(routes, "/ui/runs/{run_id}/fork", body=Fork)
async def fork_run(call: Call[Fork, None]) -> Any:
    """Ask for the same, or with another input, on another thread that remembers what this one did when the run began."""
    run = await reading.details_of(call, call.run_id)
    if run.request is None:
        raise HttpError(status=409, detail="its request is not kept")
    body = create_request(run.request, run.agent or "", run.metadata)
    body.pop("after_seconds", None)
    if call.body.input is not None:
        body["input"] = value_of(call.body.input, "json", what="the input") if call.body.input.strip() else None
    body["config"] = _without_place(body.get("config"))
    call = replace(call, limits=own_limits(run.request))
    before = await _checkpoint_before(call, run)
    if before is None:
        started = await API.ask(call, runs.create_stateless_run, path={}, body={**body, "on_completion": "keep"})
    else:
        copied = (await API.ask(call, threads.copy_thread, path={"thread_id": run.thread_id})).value
        path = {"thread_id": copied.thread_id}
        try:
            started = await API.ask(call, runs.create_run, path=path, body={**body, "checkpoint_id": before})
        except TracksideError:
            with suppress(TracksideError):  # the error to report is why there is no run
                await API.ask(call, threads.delete_thread, path=path)
            raise
    return Said("Forked: this is the new run.", to=f"/ui/runs/{started.value.run_id}")


def _without_place(config: Any) -> Any:
    """The config without a checkpoint of the thread that the fork leaves."""
    own = config.get("configurable") if isinstance(config, dict) else None
    if not isinstance(own, dict):
        return config
    names = {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"}
    return {**config, "configurable": {name: own[name] for name in own if name not in names}}


async def _checkpoint_before(call: Call[Any, Any], run: RunDetails) -> str | None:
    """The checkpoint at which the run began; None if the thread had none.

    Raises:
        HttpError: the agent keeps only the thread's current state, and the thread had other runs before.
    """
    body = {"limit": _CHECKPOINTS, "metadata": {"run_id": run.run_id}, "select": ["checkpoint", "parent_checkpoint"]}
    path, parent, before_these = {"thread_id": run.thread_id}, None, None
    while found := (await API.ask(call, states.search_history, path=path, body={**body, "before": before_these})).value:
        parent, before_these = found[-1]["parent_checkpoint"], found[-1]["checkpoint"]["checkpoint_id"]
        if len(found) < _CHECKPOINTS:
            break
    if parent is not None:
        before: str | None = parent["checkpoint_id"]
        return before
    if (await reading.around(call, run)).earlier is not None:
        raise HttpError(status=409, detail="the state of the thread before this run is not kept")
    return None
