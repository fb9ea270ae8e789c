"""Finds what a question is about: BM25 over passages, by `bm25s`, on stems of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import bm25s  # type: ignore[import-untyped]
import numpy as np
import snowballstemmer  # type: ignore[import-untyped]

from research.documents import Document

_STOP_WORDS = """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can cannot could did do does doing done down during each few for from further get gets give had has have having he
    her here hers him his how i if in into is it its itself just let lets like made make makes many may me might more
    most much must my need needs no nor not now of off on once one only or other our out over own please same say shall
    she should show so some such tell than that the their them then there these they this those through to too under
    until up us use used using very want was way we were what when where which while who whom why will with without
    would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say how something is asked, not what it is about."""

PASSAGE_SENTENCES = 6
"""Longer sections are cut into passages of this many sentences, so that BM25 compares like with like."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that seems relevant; `score` is 1.0 for one that fits every query best."""

    document: Document
    score: float


class Ranking:
    """Scores a fixed list of texts against queries. Safe to use from several threads."""

    def __init__(self, texts: Iterable[str]) -> None:
        tokens = [terms(text) for text in texts]
        self._size = len(tokens)
        self._bm25 = None
        if any(tokens):
            self._bm25 = bm25s.BM25()
            self._bm25.index(tokens, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """How well each text fits; the best has 1.0, and all have 0.0 if no word of the query occurs anywhere."""
        wanted = terms(query)
        if self._bm25 is None or not any(term in self._bm25.vocab_dict for term in wanted):
            return np.zeros(self._size)
        scores = np.asarray(self._bm25.get_scores(wanted), dtype=float)
        return scores / top if (top := scores.max()) > 0 else np.zeros(self._size)


class Library:
    """A searchable set of documents."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = tuple(documents)
        passages = [(position, text) for position, doc in enumerate(self.documents) for text in _passages(doc)]
        self._owners = np.asarray([position for position, _ in passages], dtype=int)
        self._ranking = Ranking(text for _, text in passages)

    @property
    def sentence_count(self) -> int:
        """How many sentences there are to quote."""
        return sum(len(section.sentences) for document in self.documents for section in document.sections)

    def search(
        self,
        queries: Sequence[str],
        limit: int,
        *,
        without: frozenset[str] = frozenset(),
        judged_by: Sequence[str] = (),
    ) -> list[Hit]:
        """The documents that fit the queries best, best first, except those at the locations in `without`.

        The scores say how well they fit `judged_by`, if that is given.
        """
        fits = self._fits(queries)
        scores = self._fits(judged_by) if judged_by else fits
        order = (at for at in np.argsort(-fits, kind="stable") if fits[at] > 0)
        new = (at for at in order if self.documents[at].location not in without)
        return [Hit(self.documents[at], float(scores[at])) for at in islice(new, limit)]

    def _fits(self, queries: Sequence[str]) -> np.ndarray:
        """How well each document fits: as well as its best passage, averaged over the queries.

        Adding up normalised scores is CombSUM (Fox and Shaw, "Combination of multiple searches", TREC 1994).
        """
        total = np.zeros(len(self.documents))
        for query in queries:
            best = np.zeros(len(self.documents))
            np.maximum.at(best, self._owners, self._ranking.scores(query))
            total += best
        return total / max(1, len(queries))


def terms(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


_WORD = re.compile(r"[^\W_]+(?:\.\d+)*")


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    # A stemmer holds the state of the word it works on, so threads cannot share one.
    return str(snowballstemmer.stemmer("english").stemWord(word))


def _passages(document: Document) -> Iterable[str]:
    """What is searched: a document's sections in pieces, each with its heading and the document's subject."""
    if not document.sections:
        yield document.subject
    for section in document.sections:
        for start in range(0, max(1, len(section.sentences)), PASSAGE_SENTENCES):
            body = " ".join(section.sentences[start : start + PASSAGE_SENTENCES])
            yield f"{document.subject}\n{section.heading}\n{body}"
