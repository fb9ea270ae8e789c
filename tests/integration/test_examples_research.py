"""The research agent of the examples, on documents that each test writes and on those that are installed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from research.documents import DocumentError, folder, installed_packages, open_document
from research.findings import Finding, Quote
from research.graph import Research, build_graph, follow_up, plan_after, question_in
from research.index import Library
from research.planning import queries_of, title_of
from research.researcher import examine
from research.text import read_markdown, read_prose
from research.thinking import Extractive
from research.writing import most_relevant, without_false_marks

SPROCKET = """\
# Sprocket

[![badge](https://example.org/b.svg)](https://example.org) Sprocket drives **every** wheel of the machine.

## Timeouts

The `deadline` option stops a wheel after a number of seconds. Without it a wheel turns for ever.

```python
wheel = Wheel(deadline=3)
```

## 2.1.0 (2026-01-01)

- The deadline of a wheel may now be negative, which is a change and no fact.
"""

GADGET = """\
Gadget
======

A gadget paints things in many colours, e.g. in green. It has nothing to do with machines.

Painting
--------

Call the painter with the name of a colour::

    paint("green")

.. note::

    This directive is no prose, so nobody quotes it.
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "sprocket.md").write_text(SPROCKET, encoding="utf-8")
    (tmp_path / "gadget.rst").write_text(GADGET, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("Wheels need oil every week. Nobody says how much.\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "secret.md").write_bytes(b"\xff\xfe not text")
    return tmp_path


def asked(question: str) -> dict[str, Any]:
    return {"messages": [{"type": "human", "content": question}]}


async def answer(question: str, how: Research) -> dict[str, Any]:
    state: dict[str, Any] = await build_graph(thinker=Extractive()).ainvoke(asked(question), context=how)
    return state


class TestReading:
    def test_markdown_leaves_its_markup_behind_and_keeps_code_apart(self) -> None:
        title, timeouts = read_markdown(SPROCKET)
        assert (title.heading, title.sentences) == ("Sprocket", ("Sprocket drives every wheel of the machine.",))
        assert timeouts.heading == "Timeouts"
        assert timeouts.sentences[0] == "The `deadline` option stops a wheel after a number of seconds."
        assert timeouts.code == ("wheel = Wheel(deadline=3)",)

    def test_release_notes_are_passed_over_down_to_the_next_heading_of_their_level(self) -> None:
        text = "# A\n\n## Changelog\n\n### 1.0\n\n- All of this is new today.\n\n## Use\n\nThis is how it is used.\n"
        assert [section.heading for section in read_markdown(text)] == ["Use"]

    def test_restructured_text_headings_code_and_directives_are_told_apart(self) -> None:
        title, painting = read_prose(GADGET)
        assert title.sentences == (
            "A gadget paints things in many colours, e.g. in green.",
            "It has nothing to do with machines.",
        )
        assert painting.sentences == ("Call the painter with the name of a colour:",)
        assert painting.code == ('paint("green")',)

    def test_restructured_text_roles_and_links_become_their_text(self) -> None:
        (section,) = read_prose("Use :func:`run` of `the site <https://example.org>`_ with ``a_b_`` or *care* today.")
        assert section.sentences == ("Use `run` of the site with `a_b_` or care today.",)

    def test_a_folder_is_read_without_what_is_hidden_or_no_document(self, docs: Path) -> None:
        assert [document.name for document in folder(docs)] == ["gadget.rst", "machine/sprocket.md", "notes.txt"]

    def test_a_document_opens_again_by_its_location(self, docs: Path) -> None:
        for document in folder(docs):
            assert open_document(document.location, document.name) == document

    @pytest.mark.parametrize("name", ["utf16.md", "nul.txt"])
    def test_a_document_that_is_not_text_is_an_error_that_names_it(self, docs: Path, name: str) -> None:
        (docs / name).write_bytes({"utf16.md": "Wheels".encode("utf-16"), "nul.txt": b"a\0b"}[name])
        with pytest.raises(DocumentError, match=rf"{name} is not (UTF-8 )?text"):
            list(folder(docs))

    def test_a_folder_without_documents_is_an_error_and_so_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DocumentError, match="nothing to read"):
            list(folder(tmp_path))
        with pytest.raises(DocumentError, match="not a folder"):
            list(folder(tmp_path / "missing"))

    def test_installed_packages_have_names_versions_and_sentences(self) -> None:
        documents = {document.location: document for document in installed_packages()}
        rich = documents["package:rich"]
        assert rich.name.startswith("rich ")
        assert any("terminal" in sentence for section in rich.sections for sentence in section.sentences)


class TestPlanning:
    def test_a_question_becomes_its_key_words(self) -> None:
        assert queries_of("How do I set a timeout for an HTTP request?") == ["set timeout HTTP request"]

    def test_each_clause_becomes_a_query_of_its_own(self) -> None:
        assert queries_of("How do I test asynchronous code, and find blocking calls?") == [
            "test asynchronous code find blocking calls",
            "test asynchronous code",
            "find blocking calls",
        ]

    def test_a_clause_that_says_too_little_takes_the_one_before_along(self) -> None:
        assert queries_of("Which wheels turn slowly and stop?") == ["wheels turn slowly stop", "wheels turn slowly"]

    def test_a_title_is_the_first_sentence_cut_between_words(self) -> None:
        assert title_of("Why? Because.") == "Why?"
        assert title_of("wheel " * 30, limit=20) == "wheel wheel wheel…"

    def test_a_message_without_a_key_word_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing to search for"):
            question_in([])


class TestSearching:
    @pytest.mark.parametrize(
        ("query", "first"),
        [("deadline of a wheel", "machine/sprocket.md"), ("painting colours", "gadget.rst"), ("oil", "notes.txt")],
    )
    def test_the_right_document_comes_first(self, docs: Path, query: str, first: str) -> None:
        hits = Library(folder(docs)).search([query], 3)
        assert hits[0].document.name == first
        assert hits[0].score == pytest.approx(1.0)

    def test_words_are_found_in_their_other_forms(self, docs: Path) -> None:
        assert Library(folder(docs)).search(["painter colouring"], 1)[0].document.name == "gadget.rst"

    def test_what_nobody_speaks_of_is_not_found(self, docs: Path) -> None:
        assert Library(folder(docs)).search(["bananas"], 3) == []

    def test_documents_that_were_read_already_are_left_out(self, docs: Path) -> None:
        library = Library(folder(docs))
        known = frozenset({library.search(["wheels"], 1)[0].document.location})
        assert known.isdisjoint(hit.document.location for hit in library.search(["wheels"], 3, without=known))

    def test_a_researcher_brings_back_the_sentences_that_fit_and_their_code(self, docs: Path) -> None:
        (sprocket,) = (document for document in folder(docs) if document.name.endswith("sprocket.md"))
        finding = examine(sprocket, ["deadline wheel seconds"])
        assert finding["quotes"][0]["text"] == "The `deadline` option stops a wheel after a number of seconds."
        assert finding["example"] == "wheel = Wheel(deadline=3)"

    def test_a_researcher_finds_nothing_where_nothing_is(self, docs: Path) -> None:
        (notes,) = (document for document in folder(docs) if document.name == "notes.txt")
        assert examine(notes, ["colours"])["quotes"] == []


class TestWriting:
    def test_a_sentence_that_two_documents_share_is_quoted_once(self) -> None:
        def finding(document: str, *texts: str) -> Finding:
            quotes = [Quote(text=text, heading="", score=1.0) for text in texts]
            return Finding(document=document, location=document, score=1.0, quotes=quotes, example="", note="")

        first, second = most_relevant(
            "wheels", [finding("a", "Wheels turn."), finding("b", "Wheels  turn!", "Wheels stop.")]
        )
        assert [quote["text"] for quote in first["quotes"] + second["quotes"]] == ["Wheels turn.", "Wheels stop."]

    def test_a_model_cannot_cite_what_it_was_not_given(self) -> None:
        assert without_false_marks("So it is [1], and so [3].", 2) == "So it is [1], and so."

    def test_following_up_asks_for_what_was_read_and_not_searched_yet(self) -> None:
        quotes = [Quote(text="Wheels need oil; oil costs money.", heading="", score=1.0)]
        finding = Finding(document="a", location="a", score=1.0, quotes=quotes, example="", note="")
        assert follow_up(["wheels"], [finding]).startswith("oil")
        assert follow_up(["wheels", "oil costs money"], [finding]) == ""


class TestTheAgent:
    async def test_every_sentence_of_an_answer_stands_in_the_document_that_it_cites(self, docs: Path) -> None:
        state = await answer("How do I set the deadline of a wheel?", Research(docs=str(docs)))
        text = state["messages"][-1].text
        assert "The `deadline` option stops a wheel after a number of seconds. [1]" in text
        assert "[1] machine/sprocket.md, “Timeouts”" in text
        for finding in state["findings"]:
            source = Path(finding["location"]).read_text(encoding="utf-8")
            for quote in finding["quotes"]:
                assert quote["text"] in source.replace("**", "")
        assert state["sources"][0] == {"number": 1, "document": "machine/sprocket.md", "heading": "Timeouts"}
        assert state["title"] == "How do I set the deadline of a wheel?"

    async def test_the_answer_streams_and_is_the_message_that_stays(self, docs: Path) -> None:
        graph = build_graph(Research(docs=str(docs)), thinker=Extractive())
        streamed: list[AIMessageChunk] = []
        progress: list[str] = []
        final: dict[str, Any] = {}
        modes = ["custom", "messages", "values"]
        parts: AsyncIterator[Any] = graph.astream(asked("Which deadline has a wheel?"), stream_mode=modes)
        async for mode, part in parts:
            if mode == "custom":
                progress.append(part)
            elif mode == "messages":
                streamed.append(part[0])
            else:
                final = part
        last = final["messages"][-1]
        assert len(streamed) > 1
        assert {chunk.id for chunk in streamed} == {last.id}
        assert "".join(chunk.text for chunk in streamed) == last.text
        assert progress[0] == "planning: deadline wheel"
        assert any("machine/sprocket.md" in line for line in progress)

    async def test_each_document_goes_to_a_researcher_of_its_own(self, docs: Path) -> None:
        graph = build_graph(Research(docs=str(docs)), thinker=Extractive())
        parts: AsyncIterator[Any] = graph.astream(
            asked("Do wheels, colours and machines need oil?"), stream_mode="updates", subgraphs=True
        )
        researchers = {namespace[0] async for namespace, update in parts if namespace and "read" in update}
        assert len(researchers) == 3
        assert all(name.startswith("researcher:") for name in researchers)

    async def test_nothing_found_is_said_and_nothing_is_made_up(self, docs: Path) -> None:
        state = await answer("What makes bananas yellow?", Research(docs=str(docs)))
        assert state["messages"][-1].text == "None of the documents says anything about “bananas yellow”."
        assert state["sources"] == []

    async def test_an_unreadable_document_is_an_error_of_the_run(self, docs: Path) -> None:
        (docs / "machine" / "broken.md").write_bytes("Räder".encode("latin-1"))
        with pytest.raises(DocumentError, match=r"broken\.md is not UTF-8 text \(byte 0xe4 at 1\)"):
            await answer("How do wheels turn?", Research(docs=str(docs)))

    async def test_a_second_question_on_a_thread_starts_with_no_findings_and_keeps_the_title(self, docs: Path) -> None:
        graph = build_graph(Research(docs=str(docs)), thinker=Extractive())
        graph.checkpointer = InMemorySaver()
        await graph.ainvoke(asked("Which deadline has a wheel?"), {"configurable": {"thread_id": "t"}})
        state = await graph.ainvoke(asked("Which colours are painted?"), {"configurable": {"thread_id": "t"}})
        assert {finding["document"] for finding in state["findings"]} == {"gadget.rst"}
        assert state["title"] == "Which deadline has a wheel?"
        assert [message.type for message in state["messages"]] == ["human", "ai", "human", "ai"]

    async def test_going_deep_reads_on_until_there_is_nothing_new(self, docs: Path) -> None:
        (docs / "canvas.md").write_text("Canvas comes from Ruritania by ship.", encoding="utf-8")
        (docs / "trade.md").write_text("Ruritania also sells butter and cheese.", encoding="utf-8")
        quick = await answer("Where does canvas come from?", Research(docs=str(docs)))
        deep = await answer("Where does canvas come from?", Research(docs=str(docs), deep=True))
        assert [Path(location).name for location in quick["read"]] == ["canvas.md"]
        assert [Path(location).name for location in deep["read"]] == ["canvas.md", "trade.md"]


class TestApproval:
    @pytest.fixture
    def paused(self, docs: Path) -> Any:
        graph = build_graph(Research(docs=str(docs), approve=True), thinker=Extractive())
        graph.checkpointer = InMemorySaver()
        return graph

    async def test_it_pauses_before_anything_is_read(self, paused: Any) -> None:
        config = {"configurable": {"thread_id": "t"}}
        state = await paused.ainvoke(asked("Which deadline has a wheel?"), config)
        assert state["__interrupt__"][0].value.startswith("Shall I search for “deadline wheel”?")
        assert state["read"] == []

    async def test_it_goes_on_after_a_yes(self, paused: Any) -> None:
        config = {"configurable": {"thread_id": "t"}}
        await paused.ainvoke(asked("Which deadline has a wheel?"), config)
        state = await paused.ainvoke(Command(resume="yes"), config)
        assert "machine/sprocket.md" in state["messages"][-1].text

    async def test_a_query_of_the_human_is_searched_for_as_well(self, paused: Any) -> None:
        config = {"configurable": {"thread_id": "t"}}
        await paused.ainvoke(asked("Which deadline has a wheel?"), config)
        state = await paused.ainvoke(Command(resume="painted colours"), config)
        assert state["plan"] == ["deadline wheel", "painted colours"]
        assert "gadget.rst" in {finding["document"] for finding in state["findings"]}

    async def test_a_no_ends_it_with_nothing_read(self, paused: Any) -> None:
        config = {"configurable": {"thread_id": "t"}}
        await paused.ainvoke(asked("Which deadline has a wheel?"), config)
        state = await paused.ainvoke(Command(resume="no"), config)
        assert isinstance(state["messages"][-1], AIMessage)
        assert "declined" in state["messages"][-1].text
        assert state["read"] == []

    @pytest.mark.parametrize(
        ("reply", "plan"),
        [
            (True, ["a wheel"]),
            (False, []),
            ("OK.", ["a wheel"]),
            ("", []),
            (["oil", "oil"], ["oil"]),
            ("more oil", ["a wheel", "more oil"]),
        ],
    )
    def test_what_an_answer_makes_of_a_plan(self, reply: Any, plan: list[str]) -> None:
        assert plan_after(reply, ["a wheel"]) == plan
