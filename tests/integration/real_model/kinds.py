"""One agent of each kind, which asks an OpenAI-compatible model twice in each run: for a plan, then for the answer."""

from collections.abc import Callable
from typing import Any

import agents
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from openai import AsyncOpenAI
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from trackside import RunContext

PLAN = "Say in five words how you will answer."
PLAN_TOKENS = 12
GO_ON = {"ignore_eos": True}
"""Makes the server generate as many tokens as it may, so that a stream has a middle."""


def of_a_function(client: AsyncOpenAI, model: str, max_tokens: int) -> Any:
    async def assistant(question: str, run: RunContext) -> str:
        text = ""
        for prompt, limit in ((PLAN, PLAN_TOKENS), (question, max_tokens)):
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=limit,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=GO_ON,
            )
            text = ""
            async for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    run.send(
                        {"type": "AIMessageChunk", "id": chunk.id, "content": choice.delta.content or ""}, "messages"
                    )
                if chunk.usage is not None:
                    used = chunk.usage
                    run.record_usage(chunk.model, input_tokens=used.prompt_tokens, output_tokens=used.completion_tokens)
        return text

    return assistant


def of_langgraph(client: AsyncOpenAI, model: str, max_tokens: int) -> Any:
    def node(limit: int, prompt: str | None = None) -> Any:
        chat = ChatOpenAI(
            model=model,
            base_url=str(client.base_url),
            api_key=SecretStr("none"),
            http_async_client=client._client,
            max_retries=0,
            max_completion_tokens=limit,
            stream_usage=True,
            extra_body=GO_ON,
        )

        async def ask(state: MessagesState) -> Any:
            reply = await chat.ainvoke([HumanMessage(prompt)] if prompt else state["messages"][:1])
            return {"messages": [reply]}

        return ask

    graph = StateGraph(MessagesState)
    graph.add_node("plan", node(PLAN_TOKENS, PLAN))
    graph.add_node("answer", node(max_tokens))
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "answer")
    return graph.compile(name="assistant")


def of_openai_agents(client: AsyncOpenAI, model: str, max_tokens: int) -> Any:
    def settings(limit: int) -> agents.ModelSettings:
        return agents.ModelSettings(include_usage=True, max_tokens=limit, extra_body=GO_ON)

    chat = agents.OpenAIChatCompletionsModel(model, client)
    planner = agents.Agent("planner", instructions=PLAN, model=chat, model_settings=settings(PLAN_TOKENS))

    async def plan(_: Any, __: Any, given: Any) -> agents.GuardrailFunctionOutput:
        await agents.Runner.run(planner, given)
        return agents.GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    return agents.Agent(
        "assistant",
        model=chat,
        model_settings=settings(max_tokens),
        input_guardrails=[agents.InputGuardrail(plan, run_in_parallel=False)],
    )


def of_pydantic_ai(client: AsyncOpenAI, model: str, max_tokens: int) -> Any:
    chat = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
    planner = Agent(
        chat,
        name="planner",
        instructions=PLAN,
        model_settings=OpenAIChatModelSettings(max_tokens=PLAN_TOKENS, extra_body=GO_ON),
    )
    assistant = Agent(
        chat,
        name="assistant",
        model_settings=OpenAIChatModelSettings(max_tokens=max_tokens, extra_body=GO_ON),
    )

    @assistant.instructions
    async def plan(ctx: AgentContext[None]) -> str:
        return f"Your plan: {(await planner.run(ctx.prompt)).output}"

    return assistant


KINDS: dict[str, Callable[[AsyncOpenAI, str, int], Any]] = {
    "callable": of_a_function,
    "langgraph": of_langgraph,
    "openai_agents": of_openai_agents,
    "pydantic_ai": of_pydantic_ai,
}
