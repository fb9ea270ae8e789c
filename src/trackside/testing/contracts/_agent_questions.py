"""How an agent pauses for a human and goes on with the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from trackside.harness.types import RunStatus
from trackside.testing.contracts._agent_stage import Played, Stage, scripted, stage
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.scripted import ScriptedAgents

_QUESTIONS = ("May I look?", "May I sit?", "May I leave?")
_YES = True  # an answer to a question as well as an approval of a call
_YES_AS_TEXT = "true"
_NOBODYS = UUID("01a21430-baa9-7002-8737-7fce4464fa53")


class QuestionPromises(Contract):
    """The part of an `AgentContract` that is about questions."""

    @promise("questions")
    async def test_a_question_interrupts_the_run_and_its_answer_resumes(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks")("May I?")
            asked = await _asked(scene, agent, ["May I?"])
            answered = await scene.answer(agent, _YES, "thread")
            again = await scene.play(agent, thread_id="another")
        answered.has_answered("answered")
        assert asked.thread == ["busy", "interrupted"], f"the thread's statuses were {asked.thread}"
        assert answered.thread == ["busy", "idle"], f"after the answer the thread's statuses were {answered.thread}"
        assert answered.said == [_YES_AS_TEXT], f"of the answer was announced {answered.said}"
        assert again.result.status is RunStatus.interrupted, "on another thread it did not ask"

    @promise("questions")
    @pytest.mark.parametrize("mode", ["values", "updates"])
    async def test_a_follower_sees_what_is_asked(self, agents: ScriptedAgents, mode: str) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "asks")("May I?"), thread_id="thread", stream_mode=mode)
        shown = [part.data["__interrupt__"] for part in played.parts if "__interrupt__" in part.data]
        assert shown, f"its last {mode} have no `__interrupt__`"
        seen = [(one["id"], one["value"]) for one in shown[-1]]
        assert seen == [(one["id"], one["value"]) for one in played.questions], f"a follower saw {shown[-1]}"

    @promise("questions")
    async def test_a_question_is_answered_by_its_id(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks")("May I?")
            (question,) = (await _asked(scene, agent, ["May I?"])).questions
            answered = await scene.answer(agent, {question["id"]: _YES}, "thread")
        answered.has_answered("answered")
        assert answered.said == [_YES_AS_TEXT], f"of the answer was announced {answered.said}"

    @promise("questions")
    async def test_several_questions_are_answered_at_once(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks_several")(_QUESTIONS)
            asked = await _asked(scene, agent, _QUESTIONS)
            answered = await scene.answer(agent, {question["id"]: _YES for question in asked.questions}, "thread")
        answered.has_answered("answered")
        assert answered.thread == ["busy", "idle"], f"the thread's statuses were {answered.thread}"
        assert answered.said, "the answers were not announced"

    @promise("questions")
    async def test_several_questions_are_answered_in_parts(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks_several")(_QUESTIONS)
            asked = await _asked(scene, agent, _QUESTIONS)
            second = next(question for question in asked.questions if _QUESTIONS[1] in str(question))
            part = await scene.answer(agent, {second["id"]: _YES}, "thread")
            rest = [_QUESTIONS[0], _QUESTIONS[2]]
            _check_asks(part, rest)
            assert part.thread == ["busy", "interrupted"], f"after a part the thread's statuses were {part.thread}"
            answered = await scene.answer(agent, {question["id"]: _YES for question in part.questions}, "thread")
        answered.has_answered("answered")

    @promise("questions")
    async def test_one_answer_to_several_questions_is_refused(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks_several")(_QUESTIONS)
            asked = await _asked(scene, agent, _QUESTIONS)
            _check_refused(await scene.answer(agent, _YES, "thread"), "interrupted")
            answered = await scene.answer(agent, {question["id"]: _YES for question in asked.questions}, "thread")
        answered.has_answered("answered")

    @pytest.mark.parametrize("unknown", [str(_NOBODYS), _NOBODYS.hex], ids=["uuid", "hex"])
    @promise("questions")
    async def test_an_answer_to_what_was_not_asked_is_refused(self, agents: ScriptedAgents, unknown: str) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks")("May I?")
            (question,) = (await _asked(scene, agent, ["May I?"])).questions
            _check_refused(await scene.answer(agent, {unknown: _YES, question["id"]: _YES}, "thread"), "interrupted")
            answered = await scene.answer(agent, _YES, "thread")
        answered.has_answered("answered")

    @promise("questions")
    async def test_an_answer_where_nobody_asked_is_refused(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "asks")("May I?")
            _check_refused(await scene.answer(agent, _YES, "another"), "idle")
            remembers = scripted(agents, "remembers")()
            (await scene.play(remembers, thread_id="thread")).has_answered("1")
            _check_refused(await scene.answer(remembers, _YES, "thread"), "idle")
            (await scene.play(remembers, thread_id="thread")).has_answered("2")


async def _asked(scene: Stage, agent: Any, questions: Any) -> Played:
    """A run of the agent on the thread `thread`, which waits now for answers to these questions."""
    played = await scene.play(agent, thread_id="thread")
    _check_asks(played, questions)
    return played


def _check_asks(played: Played, questions: Any) -> None:
    seen = f"it ended as {played.result.status}: {played.end.get('error')}"
    assert played.result.status is RunStatus.interrupted, seen
    asked = played.questions
    assert len(asked) == len(questions), f"{len(questions)} questions are told as {asked}"
    for question in questions:
        assert any(question in str(one["value"]) for one in asked), f"{question!r} is not among {asked}"
    ids = [one["id"] for one in asked]
    assert all(isinstance(one, str) and one for one in ids), f"the questions' ids are {ids}"
    assert len(set(ids)) == len(ids), f"the questions' ids are {ids}"


def _check_refused(played: Played, thread: str) -> None:
    """Check that a run was refused, its agent not called, and its thread left as it was."""
    end: Mapping[str, Any] = played.end
    assert played.result.status is RunStatus.error, f"it ended as {played.result.status}"
    played.has_used(0)
    assert end["error"], "nobody says why it was refused"
    assert played.thread[-1:] == [thread], f"the thread's statuses were {played.thread} instead of {thread} in the end"
