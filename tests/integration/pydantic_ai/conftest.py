"""Run agents as users run them, just as the tests of LangGraph run graphs."""

from tests.integration.langgraph.conftest import open_stage, run_context, stage

__all__ = ["open_stage", "run_context", "stage"]
