"""Writes up what was found as an answer in which every sentence names its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from research.findings import Finding
from research.index import terms

MAX_DOCUMENTS = 4
"""More sources make an answer longer, not better."""

_RELEVANT = 0.7
"""A finding that weighs less than this share of the best one is left out."""


@dataclass(slots=True)
class Citations:
    """Numbers the places that are quoted, from 1, in the order of their first quotation."""

    places: dict[tuple[str, str], int] = field(default_factory=dict)

    def mark(self, document: str, heading: str) -> str:
        """The mark of a place: `[1]`."""
        return f"[{self.places.setdefault((document, heading), len(self.places) + 1)}]"

    def as_markdown(self) -> str:
        """The list of sources that ends an answer."""
        lines = (f"[{number}] {_place(*place)}" for place, number in self.places.items())
        return "\n".join(("**Sources**", "", *(f"{line}  " for line in lines)))

    def as_json(self) -> list[dict[str, str | int]]:
        """The same for programs."""
        return [{"number": n, "document": d, "heading": h} for (d, h), n in self.places.items()]


def most_relevant(question: str, findings: Sequence[Finding]) -> list[Finding]:
    """The findings that answer the question best, best first, without sentences that an earlier one already has.

    What counts is how much of the question's subject a finding's quotes cover, and how well its document fits.
    """
    asked = set(terms(question))
    weights = [len(asked.intersection(_terms_of(finding))) / len(asked) + finding["score"] for finding in findings]
    order = sorted(range(len(findings)), key=lambda at: -weights[at])
    seen: set[str] = set()
    chosen: list[Finding] = []
    for at in order:
        if weights[at] < _RELEVANT * weights[order[0]]:
            break
        said = {_plain(quote["text"]): quote for quote in reversed(findings[at]["quotes"])}
        quotes = [
            quote
            for quote in findings[at]["quotes"]
            if said.get(_plain(quote["text"])) is quote and _plain(quote["text"]) not in seen
        ]
        seen.update(said)
        if quotes:
            chosen.append({**findings[at], "quotes": quotes})
    return chosen[:MAX_DOCUMENTS]


def paragraphs(findings: Sequence[Finding], citations: Citations, *, with_example: bool) -> Iterator[str]:
    """The answer in the documents' own words, one paragraph for each finding; the best one's code follows its words."""
    for position, finding in enumerate(findings):
        cited = (
            f"{quote['text']} {citations.mark(finding['document'], quote['heading'])}" for quote in finding["quotes"]
        )
        yield f"**{finding['document']}** – {' '.join(cited)}"
        if with_example and position == 0 and finding["example"]:
            yield f"```\n{finding['example']}\n```"


def evidence(findings: Sequence[Finding]) -> str:
    """The findings as numbered notes, for a model to write from; the numbers are those of `quoted_sources`."""
    return "\n".join(
        f"[{number}] {finding['document']}: {finding['note'] or ' '.join(quote['text'] for quote in finding['quotes'])}"
        for number, finding in enumerate(findings, 1)
    )


def quoted_sources(findings: Sequence[Finding]) -> tuple[str, list[dict[str, str | int]]]:
    """The list of sources under what a model wrote, each with its best sentence, so that people can check it."""
    lines: list[str] = []
    places: list[dict[str, str | int]] = []
    for number, finding in enumerate(findings, 1):
        quote = max(finding["quotes"], key=lambda quote: quote["score"])
        lines.append(f"[{number}] {_place(finding['document'], quote['heading'])}: “{quote['text']}”  ")
        places.append({"number": number, "document": finding["document"], "heading": quote["heading"]})
    return "\n".join(("**Sources**", "", *lines)), places


def without_false_marks(text: str, count: int) -> str:
    """A model's text without the citations that name no source; there are `count` sources."""
    return re.sub(r" ?\[(\d+)\]", lambda mark: mark[0] if 1 <= int(mark[1]) <= count else "", text)


def closed(text: str) -> str:
    """Close Markdown that a model may have broken off inside code, so that what follows is not taken for code."""
    return f"{text}\n```" if len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2 else text


def asks_how(question: str) -> bool:
    """Whether an example would help."""
    return bool(re.search(r"\b(how|example|usage|write)\b", question, re.IGNORECASE))


def counted(number: int, noun: str) -> str:
    """A number of things: `1 document`, `2 documents`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _place(document: str, heading: str) -> str:
    return f"{document}, “{heading}”" if heading else document


def _terms_of(finding: Finding) -> list[str]:
    return terms("\n".join(f"{quote['heading']}\n{quote['text']}" for quote in finding["quotes"]))


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
