"""What a researcher brings back from one document: plain JSON, so that any checkpointer can keep it."""

from __future__ import annotations

from typing import TypedDict


class Quote(TypedDict):
    """A sentence, word for word, and the heading it stands under. `score` is 1.0 for the document's best."""

    text: str
    heading: str
    score: float


class Finding(TypedDict):
    """What one document says.

    `score` is how well the document fits, `example` is code of its that may help, `note` is a model's summary; the last
    two are empty where there is none.
    """

    document: str
    location: str
    score: float
    quotes: list[Quote]
    example: str
    note: str
