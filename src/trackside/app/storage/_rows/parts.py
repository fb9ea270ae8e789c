"""Splitting things that are too many to handle at once into parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def parts_of[T](things: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The things in order, in parts whose sizes add up to at most `most`; a thing that is larger by itself is alone."""
    part: list[T] = []
    size = 0
    for thing in things:
        if part and size + size_of(thing) > most:
            yield part
            part, size = [], 0
        part.append(thing)
        size += size_of(thing)
    if part:
        yield part
