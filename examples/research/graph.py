"""The lead agent: plan, perhaps ask a human, search, hand each hit to a researcher, go deeper if asked to, write.

plan ─► (approve) ─► search ═► researcher (one for each document, in parallel) ─► review ─► write
                        ▲                                                           │
                        └───────────── deep: what else do they speak of? ◄──────────┘
"""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, TypedDict, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send, interrupt

from research.documents import folder, installed_packages
from research.findings import Finding
from research.index import Hit, Library, terms
from research.planning import distinct, key_words, title_of
from research.researcher import Assignment, build_researcher
from research.thinking import Thinker, thinker_from_environment
from research.writing import counted, most_relevant

DOCUMENTS_PER_ROUND = 4
MAX_ROUNDS = 40

_RELEVANT = 0.5
"""Unless it goes deep, the agent reads no document that has less than this share of the best one's score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Research:
    """How to go about it: the run's context.

    `docs` is a folder to read instead of the installed packages' READMEs. With `approve` the run pauses until a human
    has agreed to its plan. With `deep` it follows up what it finds, round after round, until there is nothing new.
    """

    docs: str | None = None
    approve: bool = False
    deep: bool = False


class Asked(TypedDict):
    """What a run brings: messages, the last human one of which is the question."""

    messages: Annotated[list[AnyMessage], add_messages]


class ResearchState(Asked):
    """What a thread remembers: the conversation, and all about the last question."""

    title: str
    question: str
    plan: list[str]
    follow_ups: list[str]
    read: list[str]
    findings: Annotated[list[Finding], operator.add]
    sources: list[dict[str, str | int]]


def build_graph(
    defaults: Research | None = None, *, thinker: Thinker | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the agent. `defaults` hold for runs that bring no context; the environment picks a missing `thinker`."""
    steps = _Steps(defaults or Research(), thinker or thinker_from_environment())
    builder = StateGraph(ResearchState, context_schema=Research, input_schema=Asked)
    builder.add_node("plan", steps.plan)
    builder.add_node("approve", steps.approve)
    builder.add_node("search", steps.search)
    builder.add_node("researcher", build_researcher(steps.thinker))
    builder.add_node("review", steps.review)
    builder.add_node("write", steps.write)
    builder.add_edge(START, "plan")
    builder.add_edge("researcher", "review")
    builder.add_edge("write", END)
    return builder.compile(name="research")


@dataclass(frozen=True, slots=True)
class _Steps:
    """The graph's nodes."""

    defaults: Research
    thinker: Thinker

    async def plan(self, state: ResearchState, runtime: Runtime[Research]) -> Command[Literal["approve", "search"]]:
        question = question_in(state["messages"])
        queries = await self.thinker.plan(question)
        _progress(f"planning: {' · '.join(queries)}")
        update = {
            "title": state.get("title") or title_of(question),
            "question": question,
            "plan": queries,
            "follow_ups": [],
            "read": [],
            "findings": Overwrite([]),  # drop those of the thread's last question
            "sources": [],
        }
        return Command(update=update, goto="approve" if self.how(runtime).approve else "search")

    async def approve(self, state: ResearchState) -> Command[Literal["search", "__end__"]]:
        answer = interrupt(f"Shall I search for {_listed(state['plan'])}? Answer {ANSWERS}.")
        if plan := plan_after(answer, state["plan"]):
            return Command(update={"plan": plan}, goto="search")
        declined = AIMessage("The plan was declined, so nothing was searched.")
        return Command(update={"plan": [], "messages": [declined]}, goto="__end__")

    async def search(self, state: ResearchState, runtime: Runtime[Research]) -> Command[Literal["researcher", "write"]]:
        how = self.how(runtime)
        library = await asyncio.to_thread(open_library, how.docs)
        hits = library.search(
            state["follow_ups"][-1:] or state["plan"],
            DOCUMENTS_PER_ROUND,
            without=frozenset(state["read"]),
            judged_by=state["plan"],
        )
        if not how.deep:
            hits = [hit for hit in hits if hit.score >= _RELEVANT * hits[0].score]
        if not hits:
            return Command(goto="write")
        _progress(f"reading {', '.join(hit.document.name for hit in hits)}")
        return Command(
            update={"read": [*state["read"], *(hit.document.location for hit in hits)]},
            goto=[Send("researcher", _assignment(state, hit)) for hit in hits],
        )

    async def review(self, state: ResearchState, runtime: Runtime[Research]) -> Command[Literal["search", "write"]]:
        searched = [*state["plan"], *state["follow_ups"]]
        if (
            self.how(runtime).deep
            and len(state["follow_ups"]) < MAX_ROUNDS
            and (query := follow_up(searched, state["findings"]))
        ):
            _progress(f"following up “{query}”")
            return Command(update={"follow_ups": [*state["follow_ups"], query]}, goto="search")
        return Command(goto="write")

    async def write(self, state: ResearchState) -> dict[str, Any]:
        findings = most_relevant(state["question"], state["findings"])
        if not findings:
            nothing = f"None of the documents says anything about {_listed(state['plan'])}."
            return {"messages": [AIMessage(nothing)], "sources": []}
        _progress(f"writing from {len(findings)} of {counted(len(state['read']), 'document')} read")
        answer = await self.thinker.answer(state["question"], findings)
        return {"messages": [answer.message], "sources": answer.sources}

    def how(self, runtime: Runtime[Research]) -> Research:
        """What the run asks for, or else what the graph was built with."""
        return cast("Research | None", runtime.context) or self.defaults  # a run need not bring a context


def question_in(messages: Sequence[AnyMessage]) -> str:
    """What the human asked last.

    Raises:
        ValueError: nobody asked anything that can be searched for.
    """
    asked = next((message.text.strip() for message in reversed(messages) if isinstance(message, HumanMessage)), "")
    if not terms(asked):
        raise ValueError(f"there is nothing to search for in {asked!r}: ask a question with a key word in it")
    return asked


def plan_after(answer: Any, plan: list[str]) -> list[str]:
    """The plan that a human's answer leaves: the same plan, none, another list of queries, or one more query."""
    match answer:
        case True:
            return plan
        case False | None:
            return []
        case [*queries]:
            return distinct([str(query) for query in queries])
        case _:
            said = str(answer).strip()
    if said.lower().rstrip(".!") in {"yes", "y", "ok", "okay", "approve", "approved", "go on"}:
        return plan
    return [] if said.lower().rstrip(".!") in {"", "no", "n", "stop", "decline"} else distinct([*plan, said])


ANSWERS = "yes, no, or a query to search for as well"


def follow_up(searched: Sequence[str], findings: Sequence[Finding]) -> str:
    """What the documents read so far mention most and nobody has searched for yet, as a query; empty if nothing.

    Pseudo-relevance feedback, as in RM3 (Abdul-Jaleel et al., TREC 2004), on the words of the quotes alone.
    """
    known = {term for query in searched for term in terms(query)}
    words = Counter(
        word.lower()
        for found in findings
        for quote in found["quotes"]
        for word in key_words(quote["text"])
        if len(word) > 2
    )
    new = (word for word, _ in words.most_common() if not known.issuperset(terms(word)))
    return " ".join(distinct(list(islice(new, 3))))


def open_library(docs: str | None) -> Library:
    """What there is to search: a folder as it is now, or the installed packages, which are read only once.

    Raises:
        DocumentError: the folder, or a document in it, cannot be read.
    """
    if docs:
        return Library(folder(Path(docs)))
    with _READING:
        return _packages()


_READING = Lock()  # two runs at the same time need not both read everything


@cache
def _packages() -> Library:
    return Library(installed_packages())


def _assignment(state: ResearchState, hit: Hit) -> Assignment:
    return Assignment(
        question=state["question"],
        plan=state["plan"],
        document=hit.document.name,
        location=hit.document.location,
        score=hit.score,
    )


def _listed(queries: Sequence[str]) -> str:
    return ", ".join(f"“{query}”" for query in queries)


def _progress(text: str) -> None:
    """Tell whoever follows the run (stream mode `custom`) what is going on."""
    get_stream_writer()(text)
