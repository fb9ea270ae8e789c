"""Checks what a manager and a run are made of: a part that cannot be what it is passed as is refused by name.

Each part is checked once, and not when runs use it. A port is checked for what its Protocol names. What a checkpointer
has to have is for its framework to know, which sees it when a run begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from inspect import isfunction
from typing import Any

from trackside.harness.amounts import is_count
from trackside.harness.errors import InvalidSpecError, NotAgentsError, UnknownRunError
from trackside.harness.items import ItemStore
from trackside.harness.observer import ObserverBinding, observer_name
from trackside.harness.observing.bounding import DispatchPolicy
from trackside.harness.payload import canonical
from trackside.harness.ports import Clock, PriceList, RunCoordinator, RunLog, RunStream, ThreadStates
from trackside.harness.redaction import check_hook
from trackside.harness.running.ending import StopPolicy

_PORTS: Mapping[str, tuple[type, str]] = {
    "coordinator": (RunCoordinator, "store.coordinator()"),
    "stream": (RunStream, "MemoryStream()"),
    "states": (ThreadStates, "store.thread_states()"),
    "items": (ItemStore, "store.items"),
    "prices": (PriceList, "GenaiPrices()"),
    "log": (RunLog, "store.run_log()"),
    "clock": (Clock, "SystemClock()"),
}
"""What each argument has to be, and an example of what to pass."""
_NO_CHECKPOINTER = (type, str, bytes, int, float)


def check_agents(agents: Any) -> None:
    """Check that agents, if there are any, come with their names, and that every database can keep these names.

    Raises:
        NotAgentsError: (a `TypeError`) they do not.
        InvalidSpecError: (a `ValueError`) one of the names cannot be an agent's.
    """
    if agents is None:
        return
    if not isinstance(agents, Mapping):
        raise NotAgentsError(passed=f"{agents!r:.80}")
    for name in agents:
        if not (isinstance(name, str) and name and canonical(name) == (name, False)):
            why = "an agent's name is a text, without NUL and half characters"
            raise InvalidSpecError(field="agents", value=name, why=why)


def check_rules(*, max_running: Any, stopping: Any, policy: Any, redact: Any) -> None:
    """Check that runs can be held to these rules; None stands for the manager's default.

    Raises:
        InvalidSpecError: (a `ValueError`) they cannot; the message names the argument.
    """
    if not is_count(max_running):
        raise InvalidSpecError(field="max_running", value=max_running, why="at least one run has to be able to run")
    if not isinstance(stopping, StopPolicy | None):
        why = "pass a StopPolicy, as StopPolicy(stuck_after=5.0)"
        raise InvalidSpecError(field="stopping", value=stopping, why=why)
    if not isinstance(policy, DispatchPolicy | None):
        why = "pass a DispatchPolicy, as DispatchPolicy(call_limit=5.0)"
        raise InvalidSpecError(field="policy", value=policy, why=why)
    if redact is not None:
        check_hook(redact)


def check_ports(**ports: Any) -> None:
    """Check that each port, by the name of its argument, has what is asked of it; None is not checked.

    Raises:
        InvalidSpecError: (a `ValueError`) one does not; the message names it, and what to pass.
    """
    for name, port in ports.items():
        if port is None:
            continue
        if name == "checkpointer":
            _check_checkpointer(port)
            continue
        kind, example = _PORTS[name]
        for member in _members_of(kind):
            if not _has(port, member):
                lacks = "is a class" if isinstance(port, type) else f"has no `{member}`"
                why = f"pass {example} or another {kind.__name__}; this {lacks}"
                raise InvalidSpecError(field=name, value=port, why=why)


def _check_checkpointer(checkpointer: Any) -> None:
    if isinstance(checkpointer, _NO_CHECKPOINTER):
        this = "is a class" if isinstance(checkpointer, type) else "keeps nothing"
        why = f"pass store.checkpointer() or another checkpointer of the agents' framework; this {this}"
        raise InvalidSpecError(field="checkpointer", value=checkpointer, why=why)


def unrecorded(bindings: Iterable[ObserverBinding]) -> InvalidSpecError:
    """Why no run can be started: its coordinator is durable, and none of these observers is required.

    What the coordinator is told of an end does not last: the run would stay pending in the store, and begin again.
    """
    why = (
        "a durable coordinator relies on what is written, and none of these has to write it: bind"
        " ObserverBinding(StorageObserver(store), required=True) first"
    )
    value = [binding.name or observer_name(binding.observer) for binding in bindings]
    return InvalidSpecError(field="observers", value=value, why=why)


def check_run_id(run_id: Any) -> None:
    """Check that there can be a run with this id.

    Raises:
        UnknownRunError: it is not a text.
    """
    if not isinstance(run_id, str):
        raise UnknownRunError(run_id=run_id)


def followed(after: Any, modes: Any) -> tuple[int | None, frozenset[str] | None]:
    """The part of a run's output after which a follower wants it, and the modes that the follower wants; None is all.

    Raises:
        InvalidSpecError: (a `ValueError`) one of them is not what it has to be; the message names it.
    """
    if after is not None and not is_count(after, 0):
        raise InvalidSpecError(field="after", value=after, why="it is the number of a part, a whole number from 0 up")
    if modes is None or isinstance(modes, str):
        return after, None if modes is None else frozenset({modes})
    if not isinstance(modes, Collection) or not all(isinstance(mode, str) for mode in modes):
        raise InvalidSpecError(field="modes", value=modes, why="it has to be a mode or a list of modes")
    return after, frozenset(modes)


@cache
def _members_of(protocol: type) -> list[str]:
    methods = [name for name, value in vars(protocol).items() if isfunction(value) and not name.startswith("_")]
    return [*protocol.__annotations__, *methods]


def _has(port: Any, member: str) -> bool:
    """Whether a port has this member for use; the methods that a class has are for its instances."""
    return hasattr(port, member) and not (isinstance(port, type) and isfunction(getattr(port, member)))
