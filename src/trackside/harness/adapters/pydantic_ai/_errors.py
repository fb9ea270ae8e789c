"""What can go wrong between the harness and a Pydantic AI agent."""

from trackside.harness.errors import TracksideError


class AgentPauseError(TracksideError):
    """A tool of the agent {agent!r} called `run.interrupt`, which is for plain functions; in a tool of Pydantic AI, raise `ApprovalRequired` or `CallDeferred`."""  # noqa: E501

    fault = "agent"


class ThreadHistoryError(TracksideError):
    """Thread {thread_id!r} has a message history that Pydantic AI does not read: {why}. Start a new thread."""

    fault = "store"
