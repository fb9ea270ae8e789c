"""Rows of databases and tables: objects in payloads, however they are gone through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from trackside.harness.errors import PayloadError
from trackside.harness.payload import canonical, is_object


class Column(list[int]):
    """As of Polars."""

    def __init__(self, name: Any, *values: int) -> None:
        super().__init__(values)
        self.name = name


class Frame:
    """As of Polars: it has no keys, and going through it gives its columns."""

    def __init__(self, *columns: Any, names: Any = None) -> None:
        self._columns = columns
        self._names = [column.name for column in columns] if names is None else names

    @property
    def columns(self) -> Any:
        return self._names

    def __iter__(self) -> Iterator[Any]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class Lost:
    """A row whose connection is closed."""

    def keys(self) -> list[str]:
        raise RuntimeError("closed")

    def __getitem__(self, key: str) -> Any: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


def row_of(query: str) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(query).fetchone()
        return row


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (row_of("SELECT 1 AS id, 'Ada' AS name"), {"id": 1, "name": "Ada"}),
        (Frame(Column("id", 1, 2), Column("n", 3, 4)), {"id": [1, 2], "n": [3, 4]}),
        (Frame(), {}),
    ],
)
def test_a_row_and_a_table_are_objects_with_their_names(value: Any, form: Any) -> None:
    assert canonical(value) == (form, True)
    assert canonical([value]) == ([form], True)
    assert is_object(value)
    assert canonical(value, as_fields=True)[0] == form


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (row_of("SELECT 1 AS id, 2 AS id"), [1, 2]),
        (Frame([1, 2], [3, 4], names=["id", "n"]), [[1, 2], [3, 4]]),
        (Frame(Column("id", 1), Column("id", 2), names=["id"]), [[1], [2]]),
        (Frame(Column(7, 1)), [[1]]),
        (Frame(Column("id", 1), names=("id",)), [[1]]),
        ([1], [1]),
        ("text", "text"),
        (1, 1),
        (None, None),
    ],
)
def test_what_has_no_names_for_its_parts_is_no_object(value: Any, form: Any) -> None:
    assert canonical(value)[0] == form
    assert not is_object(value)


def test_what_cannot_be_read_is_no_object_and_fails_as_it_is_made_plain() -> None:
    assert not is_object(Lost())
    with pytest.raises(PayloadError, match="closed"):
        canonical(Lost())
