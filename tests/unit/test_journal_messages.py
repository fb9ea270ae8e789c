"""Messages of any origin as a run's journal tells them: with a type and an id, found in any input, and kept short."""

import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from trackside.harness.errors import PayloadError
from trackside.harness.ids import is_uuid
from trackside.harness.journal import answer_message, human_messages, plain_message
from trackside.harness.payload import MAX_CHARS


@dataclass
class FrameworkMessage:
    """A message as LangChain has it: not a mapping."""

    type: str
    content: Any
    id: str | None = None


@dataclass
class Behind:
    """A message as LangChain has it: its type comes after its text."""

    content: str
    type: str = "human"
    id: str = "m"


LONG = "x" * 2 * MAX_CHARS


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"type": "human", "content": "x"}, "human"),
        ({"role": "user", "content": "x"}, "human"),
        ({"role": "assistant", "content": "x"}, "ai"),
        ({"role": "system", "content": "x"}, "system"),
        ({"role": "developer", "content": "x"}, "system"),
        ({"role": "tool", "content": "x"}, "tool"),
        ({"type": "user", "content": "x"}, "human"),
        (FrameworkMessage("ai", "x"), "ai"),
        ("x", "human"),
    ],
    ids=repr,
)
def test_message_of_any_origin_becomes_an_object_with_type_and_id(message: Any, kind: str) -> None:
    plain = plain_message(message)

    assert (plain["type"], plain["content"]) == (kind, "x")
    assert is_uuid(plain["id"])
    assert "role" not in plain
    assert "sanitized" not in plain


def test_message_keeps_its_id_and_what_nobody_knows() -> None:
    message = {"type": "human", "content": "x", "id": "m1", "extra": {"a": [1]}}

    assert plain_message(message) == message
    assert plain_message(message) is not message


def test_message_that_had_to_change_says_so() -> None:
    assert plain_message({"type": "human", "content": "a\0", "id": "m"}) == {
        "type": "human",
        "content": "a\ufffd",
        "id": "m",
        "sanitized": True,
    }


@pytest.mark.parametrize(
    "message",
    [
        "a\0b",
        "half \ud800",
        "x" * (MAX_CHARS + 10_000),
        FrameworkMessage("human", "a\0b"),
        FrameworkMessage("human", [{"text": {1, 2}}]),
        FrameworkMessage("human", "x" * (MAX_CHARS + 10_000)),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_a_text_or_an_object_that_had_to_change_says_so_too(message: Any) -> None:
    plain = plain_message(message)

    assert plain["sanitized"] is True
    assert plain_message(plain) == plain, "what is said of it stays, however often it is looked at"


@pytest.mark.parametrize("answer", ["a\0b", {"k": {1, 2}}, math.nan, b"raw", "x" * (MAX_CHARS + 10_000)], ids=type)
def test_an_answer_that_had_to_change_says_so(answer: Any) -> None:
    assert answer_message(answer)["sanitized"] is True


@pytest.mark.parametrize("answer", ["yes", {"k": [1, 2]}, None, 1.5])
def test_an_answer_that_is_kept_as_it_was_says_nothing(answer: Any) -> None:
    assert "sanitized" not in answer_message(answer)


@pytest.mark.parametrize(
    "message",
    [
        {"content": LONG, "role": "user", "id": "m"},
        {"content": [LONG], "n": 1, "type": "human", "id": "m"},
        Behind(LONG),
    ],
    ids=["role", "type", "object"],
)
def test_a_long_message_is_cut_and_keeps_what_it_is_wherever_that_stands(message: Any) -> None:
    plain = plain_message(message)

    assert (plain["type"], plain["id"]) == ("human", "m")
    assert "xxx" in str(plain["content"])
    assert "[truncated:" in str(plain)
    assert len(str(plain)) < MAX_CHARS + 500


@pytest.mark.parametrize("message", [5, None, ["x"], {"content": "x"}, {"type": 5, "content": "x"}, object()])
def test_what_is_not_a_message_is_refused(message: Any) -> None:
    with pytest.raises(PayloadError, match="The value at message cannot be kept"):
        plain_message(message)


def serialized(name: str, content: str, **more: Any) -> dict[str, Any]:
    """A LangChain message object as JSON."""
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain_core", "messages", name],
        "kwargs": {"content": content, **more},
    }


@pytest.mark.parametrize(
    ("value", "contents"),
    [
        ("hello", ["hello"]),
        ({"messages": "hello"}, ["hello"]),
        ({"messages": [{"role": "user", "content": "a"}, {"type": "ai", "content": "b"}]}, ["a"]),
        ({"messages": [FrameworkMessage("human", "a"), FrameworkMessage("ai", "b")]}, ["a"]),
        ({"messages": [("user", "a"), ("human", "b"), ("ai", "c")]}, ["a", "b"]),
        ({"messages": {"role": "user", "content": "a"}}, ["a"]),
        ({"messages": FrameworkMessage("human", "a")}, ["a"]),
        ({"messages": ("user", "a")}, ["a"]),
        ({"messages": ["a", "b"]}, ["a", "b"]),
        ({"messages": ["user", "a"]}, ["user", "a"]),
        ({"messages": [["user", "a"], ["ai", "b"], ["human", "c"]]}, ["a", "c"]),
        ({"messages": [["user"], ["sale", "a"], ["user", "a", "b"]]}, []),
        ({"messages": [serialized("HumanMessage", "a"), serialized("AIMessage", "b")]}, ["a"]),
        ({"messages": [serialized("HumanMessageChunk", "a"), serialized("PromptValue", "b")]}, ["a"]),
        ({"messages": serialized("HumanMessage", "a")}, ["a"]),
        (serialized("HumanMessage", "a"), ["a"]),
        ({"role": "user", "content": "a"}, ["a"]),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], ["a", "b"]),
        ({"question": "?"}, []),
        ({"messages": []}, []),
        ({"messages": None}, []),
        ({"type": "human"}, []),
        ([1, 2], []),
        (["a", "b"], []),
        (["user", "a"], []),
        ([["user", "a"]], []),
        (("user", "a"), ["a"]),
        (("a", "b"), []),
        (None, []),
        (5, []),
    ],
    ids=repr,
)
def test_human_messages_are_found_in_every_form_of_input(value: Any, contents: list[str]) -> None:
    found = human_messages(value)

    assert [message["content"] for message in found] == contents
    assert all(message["type"] == "human" and message["id"] for message in found)


def test_a_message_that_was_an_object_of_langchains_keeps_its_id_and_what_else_it_has() -> None:
    given = serialized("HumanMessage", "hello", id="m-1", additional_kwargs={"tone": "kind"})

    assert human_messages({"messages": [given]}) == [
        {"type": "human", "content": "hello", "id": "m-1", "additional_kwargs": {"tone": "kind"}}
    ]


class Column:
    """A column like NumPy's and pandas': it compares to a column, and has no truth value."""

    __hash__ = None

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return Column(*(value == other for value in self.values))

    def __bool__(self) -> bool:
        raise ValueError("The truth value of a column is ambiguous.")


class Table(Column):
    """A table like pandas': its columns are attributes."""

    type = Column("sale", "refund")
    content = Column(1, 2)


class Row:
    """A row like those of pandas and ORMs: what it says of itself has none of the forms of a message."""

    type = "user"
    content = "hello"


def database_row(query: str) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(query).fetchone()
        return row


def test_a_row_of_a_database_is_a_message_as_a_mapping_is() -> None:
    said = database_row("SELECT 'm-1' AS id, 'user' AS role, 'hello' AS content")
    answer = database_row("SELECT 'm-2' AS id, 'ai' AS type, 'hi' AS content")
    assert human_messages({"messages": [said, answer]}) == [{"type": "human", "content": "hello", "id": "m-1"}]
    assert plain_message(answer) == {"type": "ai", "content": "hi", "id": "m-2"}
    assert human_messages([database_row("SELECT 'sale' AS type, 5 AS content")]) == []


class Expired:
    """An ORM's row after its session has closed."""

    @property
    def type(self) -> str:
        raise RuntimeError("it is bound to no session")


@pytest.mark.parametrize(
    "value",
    [
        Table(),
        [Table()],
        {"messages": Table()},
        {"messages": [Table()]},
        {"type": Column("human"), "content": "x"},
        {"type": Column("human"), "role": "user", "content": "x"},
        {"type": 5, "role": "user", "content": "x"},
        {"role": Column("user"), "content": "x"},
        FrameworkMessage(Column("human"), "x"),
        (Column(1), Column(2)),
        [(Column(1), Column(2)), (Column(3), "label")],
        Row(),
        Expired(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_only_looks_like_a_message_is_none_and_fails_nothing(value: Any) -> None:
    assert human_messages(value) == []


def test_what_a_message_contains_may_have_no_truth() -> None:
    assert [
        message["type"] for message in human_messages([("user", Column(1)), {"role": "user", "content": Column(2)}])
    ] == [
        "human",
        "human",
    ]
