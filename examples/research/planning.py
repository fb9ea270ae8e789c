"""Turns a question into queries without a model: by its punctuation, its conjunctions and its key words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from research.index import STOP_WORDS, terms

MAX_QUERIES = 4

_CLAUSE = re.compile(
    r"[?!;:]+\s*|[.,]\s+|\s+(?:and|or|but|then|versus|vs\.?|instead of|as well as|compared (?:to|with))\s+",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_][\w'’.+#-]*[^\W_]|[^\W_]")


def queries_of(question: str, *, limit: int = MAX_QUERIES) -> list[str]:
    """The question's key words, and those of each of its clauses if it has several, without repeats.

    A clause that names too little to search for ("… and retry it") also takes the key words of the one before:

        >>> queries_of("How do I set a timeout in httpx, and retry?")
        ['set timeout httpx retry', 'set timeout httpx']
    """
    clauses: list[list[str]] = []
    for part in _CLAUSE.split(question):
        if words := key_words(part):
            clauses.append(words if len(words) > 1 or not clauses else [*clauses[-1], *words])
    whole = key_words(" ".join(word for words in clauses for word in words))
    return distinct([" ".join(whole), *(" ".join(words) for words in clauses)])[:limit]


def key_words(text: str) -> list[str]:
    """The words of a text that say what it is about, each once."""
    words = (word for word in _WORD.findall(text) if word.lower() not in STOP_WORDS)
    return list({word.lower(): word for word in words}.values())


def distinct(queries: Sequence[str]) -> list[str]:
    """The queries that ask for something, without those that repeat an earlier one."""
    seen: set[frozenset[str]] = set()
    kept = []
    for query in queries:
        wanted = frozenset(terms(query))
        if wanted and wanted not in seen:
            seen.add(wanted)
            kept.append(query.strip())
    return kept


def title_of(question: str, *, limit: int = 60) -> str:
    """A short name for what was asked: its first sentence, cut between words."""
    first = re.split(r"(?<=[.?!])\s", " ".join(question.split()), maxsplit=1)[0]
    if len(first) <= limit:
        return first
    return f"{first[: limit - 1].rsplit(' ', 1)[0].rstrip(',;:')}…"
