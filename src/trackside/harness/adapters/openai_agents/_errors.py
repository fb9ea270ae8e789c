"""What can go wrong between the harness and the SDK."""

from trackside.harness.errors import TracksideError


class StoppingError(TracksideError):
    """The run was asked to stop, so the agent {agent!r} does not call the {what} any more."""

    fault = "agent"


class ToolPauseError(TracksideError):
    """A tool of the agent {agent!r} called `run.interrupt`, which is for plain functions; give the tool `needs_approval`."""

    fault = "agent"
