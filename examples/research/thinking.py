"""The three things with which a model helps: planning, summing up, writing. Each also works without one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langgraph.graph.message import push_message

from research.findings import Finding
from research.index import terms
from research.planning import distinct, key_words, queries_of
from research.writing import Citations, asks_how, closed, evidence, paragraphs, quoted_sources, without_false_marks

DEFAULT_MODEL = "gpt-5-mini"


@dataclass(frozen=True, slots=True)
class Answer:
    """The text written, and the places that it cites."""

    message: AIMessage
    sources: list[dict[str, str | int]]


class Thinker(Protocol):
    """Plans, sums up and writes."""

    async def plan(self, question: str) -> list[str]:
        """What to search for, in a few queries."""
        ...

    async def note(self, question: str, finding: Finding) -> str:
        """What one document says, in short; empty if its own sentences have to do."""
        ...

    async def answer(self, question: str, findings: Sequence[Finding]) -> Answer:
        """The answer from at least one finding, streamed as it is written: part of stream mode `messages`."""
        ...


class Extractive:
    """Thinks without a model: by key words, and in the documents' own sentences."""

    async def plan(self, question: str) -> list[str]:
        return queries_of(question)

    async def note(self, question: str, finding: Finding) -> str:
        return ""

    async def answer(self, question: str, findings: Sequence[Finding]) -> Answer:
        citations, identity, text = Citations(), f"answer-{uuid4()}", ""
        for paragraph in paragraphs(findings, citations, with_example=asks_how(question)):
            push_message(AIMessageChunk(content=f"{paragraph}\n\n", id=identity), state_key=None)
            text += f"{paragraph}\n\n"
        sources = citations.as_markdown()
        push_message(AIMessageChunk(content=sources, id=identity, chunk_position="last"), state_key=None)
        return Answer(AIMessage(content=text + sources, id=identity), citations.as_json())


class ModelThinker:
    """Has a chat model plan, sum up and write; its text stands above the sentences that it was shown."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model
        # Plans and notes are means, not output: only the answer belongs in the stream of messages.
        self._aside = model.with_config(tags=["nostream"])

    async def plan(self, question: str) -> list[str]:
        reply = await self._aside.ainvoke(
            [SystemMessage("Write up to three short search queries for the question, one on each line, nothing else."),
             HumanMessage(question)]
        )  # fmt: skip
        lines = (" ".join(key_words(_LIST_MARK.sub("", line))[:8]) for line in reply.text.splitlines()[:3])
        own = queries_of(question, limit=1)  # always searched for, because a plan may miss the point
        return distinct([*own, *(line for line in lines if not set(terms(line)).isdisjoint(terms(question)))])

    async def note(self, question: str, finding: Finding) -> str:
        sentences = "\n".join(quote["text"] for quote in finding["quotes"])
        reply = await self._aside.ainvoke(
            [SystemMessage("In one sentence: what does this text say about the question?"),
             HumanMessage(f"Text from {finding['document']}:\n{sentences}\n\nQuestion: {question}")]
        )  # fmt: skip
        return " ".join(reply.text.split())

    async def answer(self, question: str, findings: Sequence[Finding]) -> Answer:
        reply = await self._model.ainvoke(
            [SystemMessage("Answer the question from these notes alone, in a few sentences. Cite them like this: [1]."),
             HumanMessage(f"Notes:\n{evidence(findings)}\n\nQuestion: {question}")]
        )  # fmt: skip
        sources, places = quoted_sources(findings)
        text = f"{closed(without_false_marks(reply.text, len(findings))).strip()}\n\n{sources}"
        return Answer(reply.model_copy(update={"content": text}), places)


_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


@cache
def thinker_from_environment() -> Thinker:
    """A model if `OPENAI_API_KEY` or `OPENAI_BASE_URL` says where one is (`OPENAI_MODEL` names it), else none."""
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return Extractive()
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ModelThinker(
        ChatOpenAI(
            model=os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL,
            base_url=os.environ.get("OPENAI_BASE_URL") or None,
            api_key=SecretStr(os.environ.get("OPENAI_API_KEY") or "none"),
            stream_usage=True,
        )
    )
