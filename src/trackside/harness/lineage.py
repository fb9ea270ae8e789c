"""Which run has started a run: that of the code that starts it, for as long as it may wait for what it starts."""

from __future__ import annotations

from collections.abc import Iterator

from trackside.harness.context import RunContext, current_run, keep_to_run
from trackside.harness.errors import RunDepthError
from trackside.harness.offering import current_call

MAX_DEPTH = 8
"""How deep runs may start runs."""


keep_to_run(current_call, None)


def line_of(run: RunContext | None) -> Iterator[RunContext]:
    """A run, the run that has started it, and so on: all that go on of those that may wait for what it starts are there."""
    while run is not None:
        yield run
        run = run.starter


def starting_run() -> RunContext | None:
    """The run by which a run counts as started that the calling code starts now; None: by none, as any other's.

    That is the run which the code belongs to. What an ended run has left behind, as a timer or a task, is none of its
    own: nothing waits for that but maybe a run above, the first of which that goes on has it. But an observer that is
    told of a run's end when the run has ended starts its runs for that one while its call lasts, so that one which does
    so at each end is stopped by the depth (I20).

    Raises:
        RunDepthError: the new run would be too deep.
    """
    run = current_run()
    if run is not None and run.is_closed and ((call := current_call.get()) is None or call.is_over):
        run = next((one for one in line_of(run) if not one.is_closed), None)
    if run is not None and run.depth >= MAX_DEPTH:
        raise RunDepthError(depth=run.depth + 1)
    return run
