"""What holds for every kind of agent."""

from __future__ import annotations

from typing import Any, override

from trackside.testing.contracts._agent_ends import EndingPromises
from trackside.testing.contracts._agent_questions import QuestionPromises
from trackside.testing.contracts._agent_runs import RunningPromises


class AgentContract(RunningPromises, EndingPromises, QuestionPromises):
    """The contract of an adapter; subclass it and define the fixture `agents`, which gives `ScriptedAgents`.

    The agents of one fixture share what threads remember, as those of one manager do: what one of them has heard on a
    thread, `remembers` knows. The fixture may be async.

        class TestMyFramework(AgentContract):
            virtual_time = True

            @pytest.fixture
            def agents(self) -> MyScripts:
                return MyScripts()

    What the framework cannot do is None instead of a method, and its tests are skipped.
    """

    contract_fixture = "agents"

    @override
    def check_fixture(self, given: Any) -> None:
        model = getattr(given, "model", None)
        assert isinstance(model, str), f"the fixture `agents` gave {given!r}, which does not say its `model`"
        assert callable(getattr(given, "says", None)), f"the fixture `agents` gave {given!r}, which has no agent"
