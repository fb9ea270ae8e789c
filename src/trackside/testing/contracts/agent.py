"""What holds for every kind of agent."""

from __future__ import annotations

from typing import Any, override

from trackside.testing.contracts._agent_ends import EndingPromises
from trackside.testing.contracts._agent_questions import QuestionPromises
from trackside.testing.contracts._agent_runs import RunningPromises
from trackside.testing.contracts.scripted import ScriptedAgents


class AgentContract(RunningPromises, EndingPromises, QuestionPromises):
    """The contract of an adapter; subclass it and define the fixture `agents`, which gives `ScriptedAgents`.

    The agents of one fixture share what threads remember, like those of one manager: `remembers` knows what any of them
    has heard on a thread. The fixture may be async.

        class TestMyFramework(AgentContract):
            virtual_time = True

            @pytest.fixture
            def agents(self) -> MyScripts:
                return MyScripts()

    For what the framework cannot do, set None instead of a method; the tests of it are skipped.
    """

    contract_fixture = "agents"

    @override
    def check_fixture(self, given: Any) -> None:
        model = getattr(given, "model", None)
        assert isinstance(model, str), f"the fixture `agents` gave {given!r}, which does not say its `model`"
        assert callable(getattr(given, "says", None)), f"the fixture `agents` gave {given!r}, which has no agent"
        missing = [what for what in vars(ScriptedAgents) if not (what.startswith("_") or hasattr(given, what))]
        assert not missing, (  # a misspelt one would be an agent that nobody tests
            f"{type(given).__name__} has no {', '.join(missing)}: "
            "define it, or set it to None if the framework cannot do that"
        )
