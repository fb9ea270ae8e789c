"""What can go wrong between the harness and a graph."""

from trackside.harness.errors import TracksideError


class NoCheckpointerError(TracksideError):
    """The graph {graph!r} cannot {what} without a checkpointer: compile it with `checkpointer=`, or give the `RunManager` one."""  # noqa: E501

    fault = "agent"


class GraphPauseError(TracksideError):
    """A node of the graph {graph!r} called `run.interrupt`, which is for plain functions; in a graph, call `langgraph.types.interrupt`."""  # noqa: E501

    fault = "agent"


class NoParentGraphError(TracksideError):
    """The graph {graph!r} hands over to the graph around it (`Command.PARENT`), and there is none: an agent is the outermost graph."""  # noqa: E501

    fault = "agent"
