"""The researcher: a sub-agent that opens one document and brings back what it says about the question."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from research.documents import Document, open_document
from research.findings import Finding, Quote
from research.index import Ranking
from research.text import Section
from research.thinking import Thinker
from research.writing import counted

MAX_QUOTES = 3
MAX_EXAMPLE_LINES = 12

_RELEVANT = 0.5
"""Sentences with less than this share of the best one's score are not brought back."""


class Assignment(TypedDict):
    """What a researcher is asked to do."""

    question: str
    plan: list[str]
    document: str
    location: str
    score: float


class Report(TypedDict):
    """What a researcher hands in: no finding at all if the document turns out to say nothing."""

    findings: Annotated[list[Finding], operator.add]


class _State(Assignment, Report):
    draft: Finding


def build_researcher(thinker: Thinker) -> CompiledStateGraph[Any, None, Any, Any]:
    """A graph that works on one `Assignment` and ends with a `Report`."""

    async def read(state: _State) -> dict[str, Any]:
        def work() -> Finding:
            document = open_document(state["location"], state["document"])
            return examine(document, state["plan"], score=state["score"])

        return {"draft": await asyncio.to_thread(work)}

    async def note(state: _State) -> dict[str, Any]:
        draft = state["draft"]
        if not draft["quotes"]:
            return {"findings": []}
        found: Finding = {**draft, "note": await thinker.note(state["question"], draft)}
        get_stream_writer()(f"read {found['document']}: {counted(len(found['quotes']), 'fitting sentence')}")
        return {"findings": [found]}

    builder = StateGraph(_State, input_schema=Assignment, output_schema=Report)
    builder.add_node("read", read)
    builder.add_node("note", note)
    builder.add_edge(START, "read")
    builder.add_edge("read", "note")
    builder.add_edge("note", END)
    return builder.compile(name="researcher")


def examine(document: Document, queries: list[str], *, score: float = 1.0) -> Finding:
    """The sentences of a document that fit the queries best, in document order, and the code that goes with them."""
    sections = document.sections
    places = [(section, sentence) for section in sections for sentence in section.sentences]
    if not places:
        return Finding(document=document.name, location=document.location, score=score, quotes=[], example="", note="")
    own = _fit([sentence for _, sentence in places], queries)
    by_section = dict(
        zip(map(id, sections), _fit([_section_text(section) for section in sections], queries), strict=True)
    )
    fits = [
        (fit + by_section[id(section)]) * (0.5 if sentence.endswith(":") else 1.0) if fit else 0.0
        for (section, sentence), fit in zip(places, own, strict=True)
    ]
    best = max(fits)
    order = sorted(range(len(places)), key=lambda at: -fits[at])[:MAX_QUOTES]
    chosen = sorted(at for at in order if best and fits[at] >= _RELEVANT * best)
    return Finding(
        document=document.name,
        location=document.location,
        score=score,
        quotes=[
            Quote(text=places[at][1], heading=places[at][0].heading, score=round(fits[at] / best, 3)) for at in chosen
        ],
        example=_example([places[at][0] for at in order if at in chosen]),
        note="",
    )


def _fit(texts: list[str], queries: list[str]) -> list[float]:
    ranking = Ranking(texts)
    return [float(sum(scores)) / len(queries) for scores in zip(*map(ranking.scores, queries), strict=True)]


def _section_text(section: Section) -> str:
    return "\n".join((section.heading, *section.sentences))


def _example(sections: list[Section]) -> str:
    """The first short piece of code in these sections."""
    blocks = (block for section in sections for block in section.code)
    return next((block for block in blocks if block.count("\n") < MAX_EXAMPLE_LINES), "")
