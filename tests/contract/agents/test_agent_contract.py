"""The adapters keep the contract of an agent: each framework's own code runs, with a model that needs no network."""

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
