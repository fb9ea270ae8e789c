"""The adapters keep the agent contract: each framework's own code runs, with a model that needs no network."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.contract.agents.callables_scripts import CallablesScripts
from tests.contract.agents.langgraph_scripts import LangGraphScripts
from tests.contract.agents.openai_agents_scripts import OpenAIAgentsScripts
from tests.contract.agents.pydantic_ai_scripts import PydanticAIScripts

from trackside.testing import AgentContract


class TestCallables(AgentContract):
    virtual_time = True

    @pytest.fixture
    def agents(self) -> CallablesScripts:
        return CallablesScripts()


class TestLangGraph(AgentContract):
    virtual_time = True
    streams_messages = True
    keeps_steps = True

    @pytest.fixture
    def agents(self) -> LangGraphScripts:
        return LangGraphScripts()


class MadeForEachRun:
    """The same graphs; a context manager creates each one anew for each run."""

    model = LangGraphScripts.model

    def __init__(self) -> None:
        self._graphs = LangGraphScripts()

    def __getattr__(self, name: str) -> Any:
        compile_it = getattr(self._graphs, name)

        def script(*arguments: Any, **options: Any) -> Any:
            graph = compile_it(*arguments, **options)

            @asynccontextmanager
            async def make() -> AsyncGenerator[Any]:
                yield graph

            return make

        return script


class TestGraphFactories(AgentContract):
    virtual_time = True
    streams_messages = True
    keeps_steps = True

    @pytest.fixture
    def agents(self) -> MadeForEachRun:
        return MadeForEachRun()


class TestOpenAIAgents(AgentContract):
    virtual_time = True
    streams_messages = True
    keeps_steps = True

    @pytest.fixture
    def agents(self) -> OpenAIAgentsScripts:
        return OpenAIAgentsScripts()


class TestPydanticAI(AgentContract):
    virtual_time = True
    streams_messages = True
    keeps_steps = True

    @pytest.fixture
    def agents(self) -> PydanticAIScripts:
        return PydanticAIScripts()
