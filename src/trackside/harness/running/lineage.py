"""Which run has started a run: the one whose code starts it, for as long as that run may wait for it."""

from __future__ import annotations

from collections.abc import Iterator

from trackside.harness.context import RunContext, current_run, keep_to_run
from trackside.harness.errors import RunDepthError
from trackside.harness.observing.offering import current_call

MAX_DEPTH = 8
"""How deep runs may start runs."""


keep_to_run(current_call, None)


def line_of(run: RunContext | None) -> Iterator[RunContext]:
    """A run, the run that started it, and so on: all that go on and may wait for what it starts are among them."""
    while run is not None:
        yield run
        run = run.starter


def starting_run() -> RunContext | None:
    """The run that counts as the starter of a run that the calling code starts now; None: none, as for code of no run.

    That is the run that the code belongs to. What an ended run has left behind, such as a timer or a task, no longer
    counts as its own: nothing waits for it except perhaps a run above, and the first of these that goes on is the
    starter. But an observer that is told of a run's end after the run has ended starts its runs for that run while its
    call lasts, so that an observer that does so at each end is stopped by the depth (I20).

    Raises:
        RunDepthError: the new run would be too deep.
    """
    run = current_run()
    if run is not None and run.is_closed and ((call := current_call.get()) is None or call.is_over):
        run = next((one for one in line_of(run) if not one.is_closed), None)
    if run is not None and run.depth >= MAX_DEPTH:
        raise RunDepthError(depth=run.depth + 1)
    return run
