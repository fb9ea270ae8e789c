"""About how many bytes of memory plain values take; of events looked at once, however many buffers one waits in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

from trackside.harness.observer import RunLifecycleEvent

_ENTRY_BYTES = 64  # of a list or mapping, and of each thing in it besides its text
_HEAVIEST = 8 * 1_048_576  # bytes; a payload whose parts weigh so much has little text left, and a cycle ends here

_MOST_REMEMBERED = 256
"""How many weights are remembered. Buffers get an event one after another, with few others in between."""

_weights: dict[int, tuple[ref[RunLifecycleEvent], int]] = {}


def weight_of(event: RunLifecycleEvent) -> int:
    """The `size_of` an event's payload, which several ask for one after another. From any thread."""
    known = _weights.get(id(event))
    if known is not None and known[0]() is event:  # else it is another event, with the id of one that is gone
        return known[1]
    weight = size_of(event.payload)
    if len(_weights) >= _MOST_REMEMBERED:
        _weights.clear()
    _weights[id(event)] = (ref(event), weight)
    return weight


def size_of(payload: Mapping[str, Any], heaviest: int = _HEAVIEST) -> int:
    """About how many bytes of memory a payload takes: its texts, and something for all else.

    It takes half a microsecond for a short message, and some tens of milliseconds at most: what is found to weigh more
    than `heaviest` is looked at no further.
    """
    size = 0
    containers: list[Any] = [payload]
    for container in containers:
        size += _ENTRY_BYTES * (len(container) + 1)
        if size > heaviest:
            return size
        if type(container) is list:
            values = container
        else:
            values = container.values()
            for name in container:
                if type(name) is str:
                    size += len(name)
        for value in values:
            kind = type(value)
            if kind is str:
                size += value.__sizeof__()
            elif kind is dict or kind is list:
                containers.append(value)
    return size
