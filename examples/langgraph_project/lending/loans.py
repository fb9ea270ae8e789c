"""What a visitor has borrowed: a graph made for each run, in the language that the client asks for."""

from __future__ import annotations

from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk.runtime import ServerRuntime

from lending.desk import Visitor, name_of

SENTENCES = {"en": "{name} has {titles}.", "de": "{name} hat {titles}."}


class Loans(TypedDict, total=False):
    """What is said of the loans."""

    said: str


def make_graph(config: RunnableConfig, runtime: ServerRuntime[Visitor]) -> Any:
    """The graph for one run; the config has the language."""
    sentence = SENTENCES[config.get("configurable", {}).get("language", "en")]
    store = runtime.store

    async def count(state: Loans, runtime: Runtime[Visitor]) -> Loans:
        name = name_of(runtime.context)
        items = await store.asearch(("loans", name))
        return {"said": sentence.format(name=name, titles=", ".join(sorted(item.key for item in items)) or "nothing")}

    return StateGraph(Loans, context_schema=Visitor).add_node("count", count).add_edge(START, "count")
