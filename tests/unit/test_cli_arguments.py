"""What people type after a command: inputs, answers, metadata, lengths of time, moments."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trackside.app.cli.actions.run_options import RunOptions
from trackside.app.cli.arguments import (
    ArgumentError,
    read_answer,
    read_input,
    read_metadata,
    read_seconds,
    read_since,
)
from trackside.app.cli.commands.run import StreamMode
from trackside.app.cli.places import Place

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (None, None),
        ("", ""),
        ("hello", "hello"),
        ("42", "42"),
        ('"[URGENT] fix"', "[URGENT] fix"),
        ('"Hello" is a word', '"Hello" is a word'),
        ('{"question": "?"}', {"question": "?"}),
        (' [1, "two"]', [1, "two"]),
    ],
)
def test_an_input_is_text_unless_it_starts_like_json(typed: str | None, value: object) -> None:
    assert read_input(typed) == value


@pytest.mark.parametrize("typed", ['{"question": }', "[draft] hello", "{", "[NaN]", "[" * 100_000])
def test_an_input_that_starts_like_json_and_is_none_is_refused_in_a_sentence(typed: str) -> None:
    with pytest.raises(ArgumentError, match=r"^INPUT: it is not valid JSON: .*is read as JSON"):
        read_input(typed)


def test_an_input_is_read_from_a_file(tmp_path: Path) -> None:
    text, data = tmp_path / "question.txt", tmp_path / "question.json"
    text.write_text("Was ist ein Gleis? 🚂", encoding="utf-8")
    data.write_text('\n{"question": "?"}\n', encoding="utf-8")

    assert read_input(f"@{text}") == "Was ist ein Gleis? 🚂"
    assert read_input(f"@{data}") == {"question": "?"}


def test_an_input_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe\n")))

    assert read_input("-") == "from a pipe"


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"ab\xff")

    with pytest.raises(ArgumentError, match="missing.txt cannot be read: No such file"):
        read_input(f"@{tmp_path / 'missing.txt'}")
    with pytest.raises(ArgumentError, match=r"binary is not UTF-8 text \(byte 2\)"):
        read_input(f"@{binary}")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("yes", "yes"),
        ("true", True),
        ("42", 42),
        ("-1.5e3", -1500.0),
        ('{"approved": true}', {"approved": True}),
        ('"true"', "true"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
    ],
)
def test_an_answer_is_json_where_it_can_be(typed: str, value: object) -> None:
    assert read_answer(typed) == value


@pytest.mark.parametrize("typed", ["{approved: true}", '{"share": NaN}', "[1e999]"])
def test_an_answer_that_starts_like_json_and_is_none_is_refused(typed: str) -> None:
    with pytest.raises(ArgumentError, match="^ANSWER: it is not valid JSON"):
        read_answer(typed)


def test_metadata_values_are_json_where_they_can_be() -> None:
    pairs = ["team=search", "retries=3", "draft=false", "tags=[1]", "formula=a=b", "empty=", "share=NaN"]

    assert read_metadata(pairs) == {
        "team": "search",
        "retries": 3,
        "draft": False,
        "tags": [1],
        "formula": "a=b",
        "empty": "",
        "share": "NaN",
    }


def test_a_metadata_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^--metadata: 'a' is given twice, and has one value\.$"):
        read_metadata(["a=1", "b=2", "a=3"])


def test_a_metadata_value_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^--metadata: the value of 'a' is nested too deeply\.$"):
        read_metadata([f"a={'[' * 100_000}"])


@pytest.mark.parametrize("pair", ["team", "=search", ""])
def test_metadata_without_a_key_or_a_value_is_refused(pair: str) -> None:
    with pytest.raises(ArgumentError, match="--metadata: .* is not of the form key=value"):
        read_metadata([pair])


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90", 90), ("1.5", 1.5), ("250ms", 0.25), ("30s", 30), ("5 m", 300), ("2h", 7200)]
)
def test_a_length_of_time_is_a_number_of_seconds_or_has_a_unit(typed: str, seconds: float) -> None:
    assert read_seconds(typed, "--timeout") == seconds


@pytest.mark.parametrize("typed", ["soon", "-5", "5 parsecs", "", "1e3", "nan"])
def test_what_is_no_length_of_time_is_refused(typed: str) -> None:
    with pytest.raises(ArgumentError, match="--timeout: .* is not a length of time"):
        read_seconds(typed, "--timeout")


@pytest.mark.parametrize("typed", ["0", "0s", "0.0h"])
def test_no_time_at_all_is_a_length_of_time_and_refused_for_what_it_is(typed: str) -> None:
    with pytest.raises(ArgumentError, match="--timeout: it has to be longer than zero; leave it out for no limit"):
        read_seconds(typed, "--timeout")


@pytest.mark.parametrize(
    ("typed", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-05-31T08:00:00+02:00", datetime(2026, 5, 31, 6, tzinfo=UTC)),
        ("2026-05-31T08:00Z", datetime(2026, 5, 31, 8, tzinfo=UTC)),
    ],
)
def test_since_is_an_age_or_an_iso_time(typed: str, moment: datetime) -> None:
    assert read_since(typed, now=NOW) == moment


def test_since_without_an_offset_is_local_time() -> None:
    local: Any = datetime(2026, 5, 31)

    assert read_since("2026-05-31", now=NOW) == local.astimezone(UTC)


@pytest.mark.parametrize("typed", ["yesterday", "3", "2 fortnights", "2026-13-01", "999999999999d"])
def test_what_is_no_moment_is_refused_with_what_to_write(typed: str) -> None:
    with pytest.raises(ArgumentError, match=r"^--since: .* write "):
        read_since(typed, now=NOW)


def test_modes_are_plain_texts_which_an_error_can_show() -> None:
    options = RunOptions(
        place=Place(), timeout=None, metadata=[], modes=[StreamMode.debug, StreamMode.debug], json=False
    )

    assert repr(options.spec("agents.py:echo").stream_mode) == "('messages', 'custom', 'debug')"
