"""The books that exist, and which one somebody may mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Book:
    """A book, and where it stands."""

    title: str
    author: str
    shelf: str


BOOKS: Final = (
    Book("Solaris", "Stanisław Lem", "B3"),
    Book("Middlemarch", "George Eliot", "A1"),
    Book("The Master and Margarita", "Mikhail Bulgakov", "C2"),
)


def find(text: str) -> Book | None:
    """The first book whose title occurs in a text."""
    return next((book for book in BOOKS if book.title.lower() in text.lower()), None)
