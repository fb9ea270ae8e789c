"""Templates are compiled when they are needed, with every template they name; a broken one takes no other down."""

from __future__ import annotations

import pytest
from jinja2 import DictLoader, TemplateNotFound, TemplateSyntaxError

from trackside.app.dashboard.rendering import templates
from trackside.app.dashboard.templating import Templates

SOURCES = {
    "layout.html": "<main>{% block main %}{% endblock %}</main>",
    "page.html": '{% extends "layout.html" %}{% block main %}{% include "more.html" %}{% endblock %}',
    "more.html": '{% from "words.html" import word %}{{ word(more) }}',
    "words.html": "{% macro word(text) %}<b>{{ text }}</b>{% endmacro %}",
    "broken.html": "{% if %}",
    "of_broken.html": '{% include "broken.html" %}',
    "lost.html": '{% include "nowhere.html" %}',
}


def test_what_is_prepared_is_rendered_without_a_look_at_the_disk() -> None:
    sources = dict(SOURCES)
    made = Templates(version="1", loader=DictLoader(sources))
    assert not made.is_prepared("page.html")
    made.prepare("page.html")
    sources.clear()
    assert made.is_prepared("page.html")
    assert made.get_template("page.html").render(more="<two>") == "<main><b>&lt;two&gt;</b></main>"


def test_a_broken_template_takes_no_other_down() -> None:
    made = Templates(version="1", loader=DictLoader(SOURCES))
    for _ in range(2):
        with pytest.raises(TemplateSyntaxError):
            made.prepare("of_broken.html")
        with pytest.raises(TemplateNotFound, match="nowhere"):
            made.prepare("lost.html")
    made.prepare("page.html")
    assert [name for name in SOURCES if made.is_prepared(name)] == [
        "layout.html",
        "page.html",
        "more.html",
        "words.html",
    ]


def test_each_template_of_ours_compiles() -> None:
    made = templates()
    names = made.list_templates(["html"])
    assert len(names) > 20
    for name in names:
        made.prepare(name)
