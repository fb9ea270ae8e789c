"""Agents are run as users run them, as the graphs of another framework are."""

from tests.integration.langgraph.conftest import open_stage, run_context, stage

__all__ = ["open_stage", "run_context", "stage"]
