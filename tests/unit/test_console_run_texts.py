"""A run's texts, prepared for reading, and the commands that start it again from a shell."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

import pytest

from trackside.app.cli.actions.run_options import RunOptions
from trackside.app.cli.arguments import read_metadata
from trackside.app.cli.commands.parser import parser_of
from trackside.app.cli.places import Place
from trackside.app.dashboard.cutting import json_cut
from trackside.app.dashboard.pages._run_commands import Commands, commands_of, create_request
from trackside.app.dashboard.pages._run_texts import said, used_by

THREAD = "01a21687-8cbe-7000-8b6d-14a2352dfe24"
NASTY = 'it\'s $HOME `id` "quoted" \\ \n!! <b>&amp; \u202e --flag ünï'


def test_an_output_is_what_was_said_after_the_last_human() -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "human", "content": "three"},
        {
            "type": "ai",
            "content": [{"type": "text", "text": "four"}, {"type": "image"}],
            "tool_calls": [{"name": "t", "args": {"a": 1}}],
        },
        {"type": "tool", "name": "t", "content": "five"},
    ]
    shown = said({"messages": messages, "more": 1}, since_human=True)
    messages_shown = shown.conversation.messages
    assert [(one.speaker, one.text) for one in messages_shown] == [("ai", "four\n[image]"), ("tool", "five")]
    assert messages_shown[0].calls[0].name == "t"
    assert shown.json is not None
    assert json.loads(shown.json.text) == {"more": 1}


@pytest.mark.parametrize("value", [{"messages": [1, 2]}, {"messages": 7}, [1], 5, {"a": {"b": 1}}])
def test_what_is_no_conversation_is_json(value: Any) -> None:
    shown = said(value)
    assert (shown.conversation.messages, json.loads(shown.json.text if shown.json else "null")) == ((), value)


def test_messages_of_any_form_are_read_as_far_as_they_go() -> None:
    odd = [
        "alone",
        {"type": "ai", "content": None, "name": 7, "tool_calls": 7},
        {"role": "developer", "content": {"a": 1}},
        {"type": "message", "role": "assistant", "content": ["x", 5, {"type": "tool_use"}, {"thinking": "hm"}]},
    ]
    shown = said({"messages": odd}).conversation.messages
    assert [(one.speaker, one.text, [*one.calls]) for one in shown] == [
        ("human", "alone", []),
        ("ai", "", []),
        ("system", '{"a":1}', []),
        ("ai", "x\n5\nhm", []),
    ]
    many = said({"messages": ["x" * 30_000] * 60}).conversation
    assert (many.earlier, many.messages[0].hidden) == (10, 10_000)


def test_signs_that_nobody_sees_are_seen_in_json_which_says_the_same() -> None:
    hidden = {"command": "a\u202eb\u2066c\u200bd\U000e0041", "lines": "a\n\x7f"}
    shown = json_cut(hidden).text
    assert (json.loads(shown), shown.replace("\n", "").isprintable()) == (hidden, True)
    for arguments in (hidden, json.dumps(hidden, ensure_ascii=False)):
        call = {"name": "shell", "args": arguments}
        (message,) = said({"messages": [{"type": "ai", "content": "", "tool_calls": [call]}]}).conversation.messages
        assert (json.loads(message.calls[0].arguments), message.calls[0].arguments.isprintable()) == (hidden, True)


def test_what_is_long_is_cut_and_counted() -> None:
    whole = json_cut({"text": "x" * 5_000_000})
    assert len(whole.text) == 20_000
    assert whole.left_out == 5_000_011 - 20_000


def test_tables_of_what_was_used_add_up() -> None:
    usage = {
        "a": {"input_tokens": 10, "output_tokens": 1, "cost_usd": 0.25, "cache_read_tokens": 4},
        "b": {"input_tokens": 20, "output_tokens": 2},
        "c": "nonsense",
    }
    *lines, total = used_by(usage)
    assert [line.name for line in lines] == ["a", "b", "c"]
    assert (total.input_tokens, total.output_tokens, total.cache_read_tokens, total.cost) == (30, 3, 4, 0.25)
    assert used_by({}) == used_by(None) == ()


def commands(request: Any, *, goes_on: bool = False, **fields: Any) -> Commands:
    known = {"run_id": "r-1", "thread_id": THREAD, "agent": "chat", "metadata": {}, "base_url": "http://h:1", **fields}
    return commands_of(request=request, goes_on=goes_on, asks_who=True, **known)


def parsed(command: str | None) -> tuple[str, dict[str, Any]]:
    """What the command line makes of it: the command and its values."""
    root = parser_of(words(command)[1:])
    with root.make_context("trackside", words(command)[1:]) as context:
        name, chosen, rest = root.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert chosen is not None
        return name, chosen.make_context(name, rest, parent=context).params


def words(command: str | None) -> list[str]:
    """What a shell makes of it."""
    assert command is not None
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f"trackside() {{ printf '%s\\0' trackside \"$@\"; }}; curl() {{ printf '%s\\0' curl \"$@\"; }}; {command}",
        ],
        capture_output=True,
        check=True,
        env={"TRACKSIDE_API_KEY": "the key", "HOME": "/x"},
    )
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("text", [NASTY, "hello", "-v", "@file", "true", "{not json", "5", "", " "])
def test_what_is_copied_is_what_was_asked_for_to_a_shell(text: str) -> None:
    request = {"input": {"messages": [{"role": "user", "content": text}]}}
    copied = commands(request, metadata={"who": NASTY, "n": 3}, goes_on=True)
    place = ["--url", "http://h:1", "--api-key", "the key"]
    assert words(copied.run)[:10] == ["trackside", "run", *place, "--thread", THREAD, "--metadata", f"who={NASTY}"]
    name, values = parsed(copied.run)
    assert (name, values["url"], values["api_key"]) == ("run", "http://h:1", "the key")
    assert (values["agent"], values["thread"], values["metadata"]) == ("chat", THREAD, [f"who={NASTY}", "n=3"])
    given = words(copied.run)[-1]
    assert given == text or json.loads(given) == request["input"]
    assert given == text or not text[:1].isalpha() or text == "true"
    assert copied.curl is not None
    sent = words(copied.curl)
    assert sent[4] == f"http://h:1/threads/{THREAD}/runs"
    assert sent[6] == "X-Api-Key: the key"
    assert json.loads(sent[-1]) == {"assistant_id": "chat", **request, "metadata": {"who": NASTY, "n": 3}}


@pytest.mark.parametrize("sign", ["\x1b[201~\nid\n", "\x03", "\r", "\x7f", "\x9b201~", "\x00"])
def test_what_is_copied_has_nothing_that_a_terminal_obeys(sign: str) -> None:
    text = f"hello{sign}there"
    request = {"input": {"messages": [{"role": "user", "content": text}]}}
    copied = commands(request, metadata={"who": text, text: "who", "n": "1"}, goes_on=True)
    resumed = commands({"command": {"resume": text}}, goes_on=True)
    for command in (copied.run, copied.curl, resumed.run, resumed.curl):
        assert command is not None
        assert command.replace(" \\\n", "").isprintable()
    assert json.loads(words(copied.run)[-1]) == request["input"]
    assert read_metadata(parsed(copied.run)[1]["metadata"]) == {"who": text, "n": "1"}
    assert json.loads(words(copied.curl)[-1])["metadata"] == {"who": text, text: "who", "n": "1"}
    assert json.loads(words(resumed.run)[-1]) == text


def test_an_answer_is_copied_as_one() -> None:
    copied = commands({"command": {"resume": {"q": NASTY}}}, goes_on=True)
    name, values = parsed(copied.run)
    assert (name, values["thread"], values["url"]) == ("resume", THREAD, "http://h:1")
    assert json.loads(values["answer"]) == {"q": NASTY}


@pytest.mark.parametrize("thread", ["order 7", "acme/42", THREAD.upper()])
def test_on_a_thread_that_is_not_served_over_http_no_command_goes_over_http(thread: str) -> None:
    copied = commands({"input": "hello"}, thread_id=thread, goes_on=True)
    assert words(copied.run) == ["trackside", "run", "--thread", thread, "chat", '"hello"']
    answered = commands({"command": {"resume": True}}, thread_id=thread, goes_on=True)
    assert words(answered.run) == ["trackside", "resume", thread, "true"]
    assert copied.curl is answered.curl is None
    anew = commands({"input": "hello"}, thread_id=thread)  # and gets a thread of its own
    assert words(anew.run)[2:4] == ["--url", "http://h:1"]
    assert "http://h:1/runs" in words(anew.curl or "")


@pytest.mark.parametrize("agent", ["chat", "-x"])
@pytest.mark.parametrize("given", [-5, "-v", {"a": 1}, None])
def test_what_is_copied_is_what_the_command_line_reads(agent: str, given: Any) -> None:
    copied = commands({"input": given}, agent=agent)
    name, values = parsed(copied.run)
    assert (name, values["agent"], json.loads(values["input"] or "null")) == ("run", agent, given)
    name, values = parsed(commands({"command": {"resume": given}}, goes_on=True).run)
    assert (name, json.loads(values["answer"])) == ("resume", given)
    for command, wanted in ((copied.show, "runs"), (copied.retry, "retry")):
        name, values = parsed(command)
        assert (name, values["run"], values["url"], values["api_key"]) == (wanted, "r-1", "http://h:1", "the key")


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "", "4711", "true", "null", "1e5", "NaN", "1e999", '"quoted"', " 7 ", '{"a": 1}', "[" * 20_000),
        *(2, -0.5, False, None, {"a": ["b"]}, [], NASTY, "a=b", "-x"),
    ],
)
@pytest.mark.parametrize("request_", [{"input": {}}, {"command": {"resume": 1}}])
def test_metadata_are_copied_as_what_they_are(value: Any, request_: Any) -> None:
    copied = commands(request_, metadata={"it's": value}, goes_on=True)
    assert copied.run is not None
    assert read_metadata(parsed(copied.run)[1]["metadata"]) == {"it's": value}


@pytest.mark.parametrize(
    "said",
    [
        {"command": {"goto": "say"}},
        {"command": {"update": {"x": 1}}},
        {"command": {"resume": 1, "goto": "say"}},
        {"config": {"configurable": {"checkpoint_id": "c-1"}}},
        {"config": {"recursion_limit": 5}},
        {"context": {"who": "ada"}},
        {"interrupt_before": ["say"]},
        {"interrupt_after": "*"},
        {"durability": "sync"},
        {"command": {"resume": 1}, "strict_resume": True},
        {"after_seconds": 3600.0},
    ],
)
def test_of_what_no_option_says_no_command_is_copied_that_would_start_another_run(said: dict[str, Any]) -> None:
    copied = commands({"input": {"x": 1}, **said}, goes_on=True)
    assert copied.run is None
    assert json.loads(words(copied.curl)[-1]).items() >= said.items()
    nothing = dict.fromkeys(("context", "command", "interrupt_before", "interrupt_after"))
    said_nothing = commands({"input": {"x": 1}, "config": {"configurable": {}}, **nothing}, goes_on=True)
    assert said_nothing.run is not None


@pytest.mark.parametrize("asked", [{"input": "hi"}, {"command": {"resume": True}}])
def test_a_run_with_limits_is_copied_with_them_for_where_its_database_is(asked: dict[str, Any]) -> None:
    limits = {"timeout": 90.0, "max_tokens": 1000, "max_cost_usd": 0.5, "max_llm_calls": 7, "max_tool_calls": 8}
    copied = commands({**asked, **limits}, metadata={"k": "v"}, goes_on=True)
    _, values = parsed(copied.run)
    place = values["database"], values["url"], values["api_key"]
    typed = RunOptions(
        place=Place(),
        timeout=values["timeout"],
        max_cost=values["max_cost"],
        **{name: values[name] for name in ("max_tokens", "max_llm_calls", "max_tool_calls", "metadata")},
        modes=(),
        json=False,
    ).spec("chat")
    assert ({name: getattr(typed, name) for name in limits}, typed.metadata) == (limits, {"k": "v"})
    assert (*place, copied.curl) == (None, None, None, None)
    unbounded = commands({**asked, **dict.fromkeys(limits)}, goes_on=True)
    assert parsed(unbounded.run)[1]["url"] == "http://h:1"
    assert unbounded.curl is not None


@pytest.mark.parametrize("given", [0, 0.0, False, True, 1, "", [], {}])
def test_an_input_that_says_little_is_copied_as_any_other(given: Any) -> None:
    copied = commands({"input": given, "stream_subgraphs": False})
    assert copied.curl is not None
    sent = words(copied.curl)[-1]
    assert sent == json.dumps({"assistant_id": "chat", "input": given, "on_completion": "keep"})
    assert parsed(copied.run)[1]["input"] == json.dumps(given)


@pytest.mark.parametrize(
    ("request_", "argument"),
    [
        ({"input": "x" * 100_000}, ("input", "input.json")),
        ({"command": {"resume": {"text": "x" * 200_000}}}, ("command.resume", "answer.json")),
    ],
)
def test_what_no_command_line_holds_is_saved_first(request_: dict[str, Any], argument: tuple[str, str]) -> None:
    copied = commands(request_, goes_on=True)
    assert copied.run is not None
    assert copied.curl is not None
    assert len(copied.run) + len(copied.curl) < 1_000
    assert shlex.split(copied.run)[-1] == f"@{argument[1]}"
    assert (copied.input_file, copied.argument) == ("request.json", argument)


def test_a_file_is_named_only_for_what_is_read_from_it() -> None:
    copied = commands({"stream_mode": ["values"]}, metadata={"k": "x" * 40_000})
    assert shlex.split(copied.run or "")[-1] == "chat"
    assert (copied.input_file, copied.argument) == ("request.json", None)


def test_the_api_is_asked_for_the_same_and_for_nothing_that_it_does_not_take() -> None:
    request = {"agent": "chat", "input": 0, "stream_subgraphs": False, "durability": "sync", "multitask": "reject"}
    same = {"assistant_id": "chat", "durability": "sync", "multitask_strategy": "reject", "metadata": {"k": "v"}}
    assert create_request({**request, "input": {"n": 0}}, "chat", {"k": "v"}) == {**same, "input": {"n": 0}}
    assert create_request({"multitask": "enqueue", "owner": "ada"}, "chat", {}) == {"assistant_id": "chat"}
