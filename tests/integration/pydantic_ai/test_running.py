"""What agents of Pydantic AI get and return when they are run."""

import asyncio
import contextvars
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import HumanMessage
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, BinaryImage, ImageUrl, RunContext, Tool, ToolReturn, UsageLimits
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.models.test import TestModel
from tests.integration.pydantic_ai.models import answers, call, texts

from trackside import RunManager, RunSpec, RunStatus, current_run, run_agent
from trackside.harness.adapters import as_agent
from trackside.harness.adapters.pydantic_ai import PydanticAIAgent, _threads
from trackside.harness.remembered import MemoryThreadStates

ME = {"role": "user", "content": "How tall is it?"}


class Height(BaseModel):
    metres: int


@dataclass
class Place:
    name: str


def tall() -> Agent[None, str]:
    return Agent(answers(*["324 m"] * 3), name="guide")


@pytest.mark.parametrize(
    "given",
    [
        "How tall is it?",
        ME,
        [ME],
        ("human", "How tall is it?"),
        HumanMessage("How tall is it?"),
        {"messages": [ME]},
        {"messages": "How tall is it?"},
        {"messages": ["How tall is it?"]},
        {"messages": [("human", "How tall is it?")]},
        {"messages": [["human", "How tall is it?"]]},
        {"messages": [dumpd(HumanMessage("How tall is it?"))]},
    ],
)
async def test_what_a_human_says_is_announced_and_answered(stage: Any, given: Any) -> None:
    outcome = await stage.play(tall(), given)
    assert outcome.status is RunStatus.success
    assert [message["content"] for message in outcome.humans] == ["How tall is it?"]
    assert outcome.values["output"] == "324 m"
    assert outcome.usage["last_ai_message"] == "324 m"
    assert outcome.usage["message_count"] == 2


async def test_the_model_gets_all_of_a_message_and_the_event_what_it_has_room_for(stage: Any) -> None:
    url, heard = "data:image/png;base64," + "A" * 1_500_000, list[Any]()
    blocks = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    given = [{"role": "user", "content": "x" * 1_500_000}, {"role": "user", "content": blocks}]
    outcome = await stage.play(Agent(answers("a tower", heard=heard)), given)
    assert outcome.status is RunStatus.success
    ((prompt,),) = heard
    assert prompt.content == ["x" * 1_500_000, BinaryContent.from_data_uri(url), "What is it?"]
    assert all(len(str(message)) < 1_100_000 and message["sanitized"] is True for message in outcome.humans)


async def test_an_image_in_a_url_reaches_the_model_itself_and_is_remembered(stage: Any) -> None:
    url, heard = "data:image/png;base64,iVBORw0KGgo=", list[Any]()
    blocks = [
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": "https://example.com/tower.png", "detail": "low"}},
        {"type": "image_url", "image_url": "data:image/svg+xml,%3Csvg/%3E"},
        {"type": "image_url", "image_url": "HTTP://EXAMPLE.COM/TOWER.PNG"},
    ]
    painter = Agent(answers("a tower", "the same", heard=heard))
    await stage.play(painter, [{"role": "user", "content": blocks}], thread_id="thread")
    await stage.play(painter, "And now?", thread_id="thread")
    for prompt, *_ in heard:
        high, plain, low, svg, loud = prompt.content
        assert high == BinaryImage(b"\x89PNG\r\n\x1a\n", media_type="image/png", vendor_metadata={"detail": "high"})
        assert plain == BinaryImage(b"\x89PNG\r\n\x1a\n", media_type="image/png")
        assert (low.url, low.vendor_metadata) == ("https://example.com/tower.png", {"detail": "low"})
        assert (svg, loud) == (ImageUrl("data:image/svg+xml,%3Csvg/%3E"), ImageUrl("HTTP://EXAMPLE.COM/TOWER.PNG"))


async def test_an_image_that_cannot_be_read_is_refused(stage: Any) -> None:
    block = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo"}}
    outcome = await stage.play(tall(), [{"role": "user", "content": [block]}])
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert "its image is no Base64" in outcome.end["error"]


@pytest.mark.parametrize(
    "url", ["s3://bucket/key.png", "S3://bucket/key.png", "gs://b/k", " s3://b/k", "file:///etc/passwd", "a.png", ""]
)
@pytest.mark.parametrize("as_text", [True, False])
async def test_an_image_is_read_by_no_credentials_of_who_runs_the_agent(stage: Any, url: str, as_text: bool) -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": url if as_text else {"url": url}}]}
    for given in ([picture], [picture, {"role": "assistant", "content": "Nice."}, ME]):
        outcome = await stage.play(Agent(answers()), given)
        assert outcome.end["error_type"] == "InvalidSpecError"
        assert "begins with https:, http: or data:" in outcome.end["error"]


async def test_any_other_json_reaches_the_agent_as_its_text_and_is_said_by_nobody(stage: Any) -> None:
    heard: list[Any] = []
    outcome = await stage.play(Agent(answers("324 m", heard=heard)), {"tower": "Eiffel", "höhe": None})
    assert texts(heard[0]) == ['{"tower": "Eiffel", "höhe": null}']
    assert outcome.humans == []


@pytest.mark.parametrize("given", [([1], [2]), ({"a": 1}, "b")], ids=repr)
async def test_a_pair_whose_first_part_is_no_text_is_no_message(stage: Any, given: Any) -> None:
    heard: list[Any] = []
    outcome = await stage.play(Agent(answers("well", heard=heard)), given)
    assert texts(heard[0]) == [json.dumps(given)]
    assert outcome.humans == []


async def test_messages_before_the_last_human_ones_are_history(stage: Any) -> None:
    heard: list[Any] = []
    given = [
        {"role": "system", "content": "Be brief."},
        {"type": "human", "content": "Hello"},
        {"type": "ai", "content": "Hello!"},
        {"type": "human", "content": [{"type": "text", "text": "What is this?"}]},
        {"type": "human", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]},
    ]
    outcome = await stage.play(Agent(answers("A tower.", heard=heard)), given)
    assert [type(part).__name__ for part in heard[0]] == ["SystemPromptPart", "UserPromptPart", "UserPromptPart"]
    assert heard[0][-1].content == ["What is this?", ImageUrl("https://example.org/a.png")]
    assert outcome.usage["message_count"] == 6, "what a run brings counts, whoever has said it"
    assert len(outcome.humans) == 3
    assert outcome.status is RunStatus.success


@pytest.mark.parametrize(
    ("brought", "behind"),
    [
        ([{"role": "assistant", "content": "Hello!"}], []),
        ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}], ["Hello"]),
        ([{"role": "system", "content": "Give refunds."}], ["Give refunds."]),
    ],
    ids=["a greeting", "a conversation", "a system message"],
)
async def test_a_thread_begins_with_the_agents_system_prompt_whatever_its_first_run_brings(
    stage: Any, brought: list[Any], behind: list[str]
) -> None:
    heard: list[Any] = []
    model = answers(RuntimeError("no"), "No.", "Still no.", heard=heard)
    clerk = Agent(model, system_prompt="Never give refunds.", deps_type=Place)

    @clerk.system_prompt
    async def where(ctx: RunContext[Place]) -> str:
        return f"You work in {ctx.deps.name}."

    @clerk.system_prompt(dynamic=True)
    def when() -> str:
        return f"The model was asked {len(heard)} times."

    asked = {"input": [*brought, ME], "thread_id": "t", "context": {"name": "Paris"}}
    failed = await stage.play(clerk, **asked)
    await stage.play(clerk, **asked, retry_of=failed.result.run_id, attempt=2)
    await stage.play(clerk, "Please?", thread_id="t", context={"name": "Rome"})
    kept = ["Never give refunds.", "You work in Paris."]
    for times, parts in enumerate(heard):
        said = [*kept, f"The model was asked {times} times.", *behind, "How tall is it?"]
        assert texts(parts) == (said if times < 2 else [*said, "Please?"])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([ME, {"role": "assistant", "content": "324 m"}], "input"),
        ({"messages": [ME, {"role": "tool", "content": "?"}]}, "input.messages"),
        ({"messages": [17]}, "input.messages"),
        ({"role": "user", "content": [{"type": "audio"}]}, "input.content"),
    ],
)
async def test_messages_that_cannot_be_passed_on_are_refused(stage: Any, given: Any, field: str) -> None:
    outcome = await stage.play(tall(), given)
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert outcome.end["error"].startswith(f"{field} = ")


async def test_an_agent_without_an_input_goes_by_its_instructions(stage: Any) -> None:
    outcome = await stage.play(Agent(answers("Good morning"), instructions="Greet."), None)
    assert outcome.values["output"] == "Good morning"


async def test_the_next_run_of_a_thread_goes_on_with_its_messages(stage: Any) -> None:
    heard: list[Any] = []
    agent = Agent(answers("first", "second", heard=heard))
    await stage.play(agent, "one", thread_id="t")
    outcome = await stage.play(agent, "two", thread_id="t")
    await stage.play(Agent(answers("third", heard=heard)), "three", thread_id="other")
    assert [texts(parts) for parts in heard] == [["one"], ["one", "two"], ["three"]]
    assert [message["kind"] for message in outcome.values["message_history"]] == ["request", "response"] * 2


@pytest.mark.parametrize("cut_off", [False, True])
async def test_what_a_tool_leaves_for_the_program_may_be_anything(stage: Any, cut_off: bool) -> None:
    heard: list[Any] = []
    last: Any = RuntimeError("no more credit") if cut_off else "412 rows"
    agent = Agent(answers([call("query", "one")], last, "412", heard=heard))

    @agent.tool_plain
    def query() -> ToolReturn:
        return ToolReturn("412 rows", metadata={"frame": object(), "place": Place("Paris")})

    first = await stage.play(agent, "how many?", thread_id="t")
    assert first.status is (RunStatus.error if cut_off else RunStatus.success)
    second = await stage.play(agent, "how many, please?", thread_id="t")
    assert second.status is RunStatus.success
    (result,) = [part for part in heard[-1] if part.part_kind == "tool-return"]
    assert (result.content, result.metadata["place"]) == ("412 rows", {"name": "Paris"})
    assert result.metadata["frame"].startswith("<object object")


async def test_a_run_that_fails_leaves_what_it_was_asked_in_its_thread(stage: Any) -> None:
    heard: list[Any] = []
    agent = Agent(answers("first", RuntimeError("no"), "third", heard=heard))
    for text in ("one", "two", "three"):
        await stage.play(agent, text, thread_id="t")
    assert texts(heard[-1]) == ["one", "two", "three"]


async def test_another_try_at_a_failed_run_does_not_ask_twice(stage: Any) -> None:
    heard: list[Any] = []
    agent = Agent(answers("first", RuntimeError("no"), RuntimeError("no"), "third", heard=heard))
    await stage.play(agent, "one", thread_id="t")
    failed = await stage.play(agent, "two", thread_id="t")
    again = await stage.play(agent, "two", thread_id="t", retry_of=failed.result.run_id, attempt=2)
    await stage.play(agent, "two", thread_id="t", retry_of=again.result.run_id, attempt=3)
    assert texts(heard[-1]) == ["one", "two"]


async def test_another_try_begins_where_the_first_one_began_whatever_was_before_the_question(stage: Any) -> None:
    heard: list[Any] = []
    lost = [RuntimeError("no")] * 3
    agent = Agent(answers(*lost, "third", heard=heard))
    await stage.play(
        agent, "I am Ada", thread_id="t"
    )  # what this run leaves and what the next one brings become one message
    given = [ME, {"role": "assistant", "content": "324 m"}, {"role": "user", "content": "And the other one?"}]
    failed = await stage.play(agent, given, thread_id="t")
    again = await stage.play(agent, given, thread_id="t", retry_of=failed.result.run_id, attempt=2)
    outcome = await stage.play(agent, given, thread_id="t", retry_of=again.result.run_id, attempt=3)
    asked = ["I am Ada", "How tall is it?", "And the other one?"]
    assert [texts(parts) for parts in heard[1:]] == [asked] * 3
    said = [part["content"] for message in outcome.values["message_history"] for part in message["parts"]]
    assert said == ["I am Ada", "How tall is it?", "324 m", "And the other one?", "third"]


@pytest.mark.parametrize("drop", [0, 1, 3])
async def test_another_try_begins_where_the_first_one_began_whatever_a_capability_has_left_of_it(
    stage: Any, drop: int
) -> None:
    heard: list[Any] = []
    forgets = ProcessHistory[None](lambda messages: messages[drop:] if len(messages) > 3 else messages)
    agent = Agent(answers("hi", "324 m", RuntimeError("no"), "tall", heard=heard), capabilities=[forgets])
    await stage.play(agent, "hello", thread_id="t")
    await stage.play(agent, ME, thread_id="t")
    failed = await stage.play(agent, "And wide?", thread_id="t")
    await stage.play(agent, "And wide?", thread_id="t", retry_of=failed.result.run_id, attempt=2)
    assert texts(heard[-1]) == texts(heard[-2])
    assert texts(heard[-1])[-1] == "And wide?"


async def test_what_a_thread_has_said_is_kept_once_where_a_run_fails(open_stage: Any) -> None:
    states = MemoryThreadStates()
    stage = await open_stage(states=states)
    agent = Agent(answers([call("ask")], "324 m", RuntimeError("no")))
    agent.tool_plain(lambda: {"metres": 324}, name="ask")
    first = await stage.play(agent, ME, thread_id="t")
    failed = await stage.play(agent, "And wide?", thread_id="t")
    kept = await states.load("t")
    assert kept is not None
    assert kept.values["unfinished"] == {"run_id": failed.result.run_id, "before": len(first.values["message_history"])}


async def test_a_thread_that_keeps_something_else_is_not_gone_on_with(run_context: Any) -> None:
    run = run_context("hello")
    run.values = {"message_history": [{"kind": "?"}]}
    with pytest.raises(Exception, match="Start a new thread") as caught:
        await PydanticAIAgent(tall()).run(run)
    assert type(caught.value).__name__ == "ThreadHistoryError"


@pytest.mark.parametrize(
    ("output_type", "given", "expected"),
    [
        (Height, {"metres": 324}, {"metres": 324}),
        (Place, {"name": "Paris"}, {"name": "Paris"}),
        ([Height, Place], None, None),
    ],
)
async def test_outputs_are_json(stage: Any, output_type: Any, given: Any, expected: Any) -> None:
    agent = Agent(TestModel(custom_output_args=given), output_type=output_type)
    outcome = await stage.play(agent, "go")
    assert outcome.status is RunStatus.success
    if expected is not None:
        assert outcome.values["output"] == expected
    assert outcome.usage["last_ai_message"].startswith("{")


async def test_context_becomes_the_dependencies(stage: Any) -> None:
    async def where(ctx: RunContext[Place]) -> str:
        return ctx.deps.name

    agent = Agent(answers([call("where")], "there"), deps_type=Place, tools=[where])
    outcome = await stage.play(agent, "where?", context={"name": "Paris"})
    assert outcome.values["message_history"][2]["parts"][0]["content"] == "Paris"
    refused = await stage.play(agent, "where?", context={"nom": "Paris"})
    assert refused.end["error"].startswith("context = {'nom': 'Paris'} does not fit a run: it makes no Place")


@pytest.mark.filterwarnings("ignore:A `cost_limit` is set but cannot be enforced")  # the model has no price
async def test_config_says_which_model_how_and_how_much(stage: Any) -> None:
    seen: list[Any] = []

    async def settings(ctx: RunContext[None]) -> str:
        seen.append((ctx.model_settings, ctx.metadata))
        return "ok"

    agent = Agent(answers(), tools=[settings])
    config = {
        "model": answers([call("settings")], "done", name="other"),
        "model_settings": {"temperature": 0.5},
        "metadata": {"tenant": "a"},
        "instructions": "Be brief.",
        "retries": {"tools": 2},
        "usage_limits": {"request_limit": 5, "cost_limit": 0.5},
    }
    outcome = await stage.play(agent, "go", config=config)
    assert outcome.status is RunStatus.success
    assert list(outcome.usage["token_usage_by_model"]) == ["other"]
    assert seen == [({"temperature": 0.5}, {"tenant": "a"})]
    assert outcome.values["message_history"][0]["instructions"] == "Be brief."


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"recursion_limit": 5}, "config.recursion_limit"),
        ({"model": 5}, "config.model"),
        ({"model_settings": "cold"}, "config.model_settings"),
        ({"usage_limits": {"requests": 5}}, "config.usage_limits"),
        ({"usage_limits": {"request_limit": "5"}}, "config.usage_limits.request_limit"),
        ({"retries": -1}, "config.retries"),
        ({"instructions": ["Be brief."]}, "config.instructions"),
    ],
)
async def test_options_that_do_not_fit_are_refused_by_name(stage: Any, config: Any, field: str) -> None:
    outcome = await stage.play(tall(), "go", config=config)
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert outcome.end["error"].startswith(f"{field} = ")
    assert outcome.humans == []


@pytest.mark.parametrize(
    "asked",
    [{"interrupt_before": "*"}, {"durability": "sync"}, {"input": None, "command": {"update": {"a": 1}}}],
    ids=["breakpoint", "durability", "update"],
)
async def test_what_only_graphs_have_is_refused(stage: Any, asked: Any) -> None:
    outcome = await stage.play(tall(), **({"input": "go"} | asked))
    assert outcome.end["error_type"] == "InvalidSpecError"


async def test_too_many_requests_are_the_frameworks_own_error(stage: Any) -> None:
    agent = Agent(answers([call("again")], "done"), tools=[Tool(lambda: "ok", name="again")])
    outcome = await stage.play(agent, "go", config={"usage_limits": UsageLimits(request_limit=1)})
    assert outcome.end["error_type"] == "UsageLimitExceeded"
    assert outcome.usage["llm_call_count"] == 1


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
async def test_tools_see_their_run(stage: Any, is_async: bool) -> None:
    seen: list[Any] = []

    def look() -> str:
        seen.append(current_run())
        return "ok"

    async def look_async() -> str:
        return look()

    tool = Tool(look_async if is_async else look, name="look")
    outcome = await stage.play(Agent(answers([call("look")], "done"), tools=[tool]), "go")
    assert [run.run_id for run in seen] == [outcome.result.run_id]


async def test_a_plain_tool_that_waits_for_a_run_leaves_its_plain_tools_a_thread(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = functools.cache(lambda depth: ThreadPoolExecutor(1))
    monkeypatch.setattr(_threads, "_pool", pool)
    loop = asyncio.get_running_loop()
    inner = Agent(answers([call("look")], "seen"), tools=[Tool(lambda: "ok", name="look")])

    def ask() -> str:
        return str(asyncio.run_coroutine_threadsafe(run_agent(inner, "look"), loop).result(20).output)

    outcome = await stage.play(Agent(answers([call("ask")], "done"), tools=[ask]), "go")
    assert outcome.result.status is RunStatus.success
    assert pool.cache_info().currsize == 2
    for depth in range(2):
        pool(depth).shutdown()


async def test_what_one_run_sets_the_next_does_not_see() -> None:
    mark: contextvars.ContextVar[str | None] = contextvars.ContextVar("mark", default=None)
    seen: list[str | None] = []

    async def set_mark() -> str:
        seen.append(mark.get())
        mark.set("set")
        return "ok"

    for _ in range(2):
        await run_agent(Agent(answers([call("set_mark")], "done"), tools=[set_mark]), "go")
    assert seen == [None, None]
    assert current_run() is None


async def test_every_agent_of_the_framework_is_one(stage: Any) -> None:
    outcome = await stage.play(WrapperAgent(tall()), "How tall is it?")
    assert outcome.values["output"] == "324 m"
    assert outcome.usage["llm_call_count"] == 1


def test_an_agent_keeps_its_name() -> None:
    assert as_agent(tall()).name == "guide"
    assert as_agent(tall(), name="chat").name == "chat"
    assert as_agent(Agent(answers())).name == "agent"


async def test_several_runs_of_one_agent_at_once_do_not_mix() -> None:
    agent = Agent(TestModel(), name="guide")

    @agent.tool_plain
    async def who() -> str:
        run = current_run()
        assert run is not None
        return run.run_id

    async with RunManager({"guide": agent}) as manager:
        handles = [await manager.start(RunSpec("guide", "go")) for _ in range(20)]
        results = [await handle.result() for handle in handles]
    for result in results:
        assert result.completion_data["last_ai_message"] == f'{{"who":"{result.run_id}"}}'
        assert result.completion_data["llm_call_count"] == 2
