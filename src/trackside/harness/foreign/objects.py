"""What objects of other people's classes hold, as far as they say it: fields, models, rows and tables, numbers."""

from __future__ import annotations

import dataclasses
import numbers
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, get_args

import msgspec


def fields_of(value: Any) -> tuple[str, ...] | None:
    """The names of the fields of a data class's object, or of a struct of msgspec's."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return tuple(field.name for field in dataclasses.fields(value)) if is_data else None


def dump_of(value: Any) -> Callable[[Any], Any] | None:
    """The method that makes plain data of a model of Pydantic's kind, such as LangChain's messages."""
    dump = getattr(type(value), "model_dump", None)
    return dump if callable(dump) else None


def dumped(model: Any, dump: Callable[[Any], Any]) -> Any:
    """What a model makes of itself; in place of a field whose serializer fails, what that field holds.

    LangGraph keeps what the serializer made, and puts that into the fields if the model's validator refuses it: a date
    that was kept as text comes back as text, which a serializer of dates cannot take. Fields that must not be shown, or
    not as they are, stay so; a model with its own way to show itself as a whole is left to that, and so is one that
    holds something of which Pydantic shows less than there is.
    """
    try:
        return dump(model)
    except RecursionError:
        raise
    except Exception:  # the agent's own serializer failed; its fields are there all the same
        if _shows_itself(type(model)):
            raise
        if type(model).__pydantic_root_model__:
            if _keeps_back(model, "root"):
                raise
            return model.root
        fields = [*vars(model), *(model.model_extra or {}), *type(model).model_computed_fields]
        return {name: shown for field in fields for name, shown in _shown(model, field).items()}


def _shows_itself(kind: Any) -> bool:
    """Whether a model has a serializer or a `model_dump` of its own, or is none of Pydantic's."""
    own = getattr(kind, "__pydantic_decorators__", None)
    return own is None or bool(own.model_serializers) or kind.model_dump.__module__ != "pydantic.main"


def _shown(model: Any, name: str) -> dict[str, Any]:
    """A field of a Pydantic model as the model shows it, if it does."""
    try:
        return dict(model.model_dump(include={name}))
    except RecursionError:
        raise
    except Exception:  # as above
        if _keeps_back(model, name):
            raise
        return {name: getattr(model, name)}


def _keeps_back(model: Any, name: str) -> bool:
    """Whether Pydantic may not show all that is in a field: where the field names a model, at whatever depth and by
    whatever name, it shows of a derived class's object only what that model has; a dataclass says itself what is shown.
    """
    field = type(model).model_fields.get(name)
    return _holds_more(getattr(model, name), set() if field is None else _classes_in(field.annotation))


def _classes_in(annotation: Any) -> set[type]:
    """The classes that an annotation names, at whatever depth."""
    parts = _each_in(annotation, lambda one: [*get_args(one), getattr(one, "__value__", None)])
    return {one for one in parts if isinstance(one, type)}


def _holds_more(value: Any, named: AbstractSet[type]) -> bool:
    return any(_is_more(one, named) for one in _each_in(value, _parts_of))


def _is_more(one: Any, named: AbstractSet[type]) -> bool:
    if dump_of(one) is None:
        return fields_of(one) is not None
    kind = type(one)
    return kind not in named and any(getattr(base, "__pydantic_fields__", None) for base in kind.__mro__[1:])


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return (*value, *value.values())
    return value if isinstance(value, list | tuple | AbstractSet | deque) else ()


def _each_in(whole: Any, parts_of: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """`whole` and its parts at whatever depth, each once: it may contain itself, and be deeper than calls can go."""
    seen: dict[int, Any] = {}
    left = [whole]
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            yield one
            left += parts_of(one)


def pairs_of(value: Any) -> list[tuple[Any, Any]] | None:
    """The entries of what is no `Mapping` and still has names: a row of a database, a table.

    It has keys, as `dict` would take it, or is a table like those of Polars, which says how its columns are called and
    gives them as it is gone through. A row may have two columns of one name, and gives the first for both: then it is no
    mapping.
    """
    kind = type(value)
    has_keys = callable(getattr(kind, "keys", None)) and hasattr(kind, "__getitem__")
    is_gone_through = hasattr(kind, "__iter__") and is_sized(value)
    if not is_gone_through or not (has_keys or hasattr(kind, "columns")):
        return None
    if not has_keys:
        return _columns_of(value)
    if callable(getattr(kind, "items", None)):
        return [*value.items()]
    keys = [*value.keys()]
    return [(key, value[key]) for key in keys] if len({*keys}) == len(keys) else None


def _columns_of(value: Any) -> list[tuple[Any, Any]] | None:
    names = value.columns
    if type(names) is not list:
        return None
    columns = [*islice(value, len(names) + 1)]  # or what else it is gone through by
    said = [getattr(column, "name", None) for column in columns]
    is_by_column = all(type(name) is str for name in said) and said == names  # what is no text may compare to anything
    return [*zip(said, columns, strict=True)] if is_by_column else None


def number_in(value: Any) -> Any:
    """Python's own value for a number of another library, or for an array of NumPy's kind that is a single value."""
    kind = type(value)
    if hasattr(kind, "ndim") and hasattr(kind, "item") and value.ndim == 0:
        item = value.item()
        if type(item) is not kind:
            return item
    if isinstance(value, numbers.Integral):
        return int(value)
    # A fraction is no float, and may be too large for one.
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational) else None


def is_sized(value: Any) -> bool:
    """Whether it has a length, as sequences do; a stand-in for another object may have only the method."""
    if not hasattr(value, "__len__"):
        return False
    try:
        len(value)
    except TypeError:
        return False
    return True
