"""A research agent that finds its answers in documents and says where: a LangGraph graph, with or without a model.

`documents` opens what can be read, `text` removes its markup, `index` searches it, `planning` turns a question into
queries, `researcher` reads one document, `writing` makes the answer, `thinking` does all of that where a model helps,
and `graph` ties them together. None of them knows Trackside: `agent` is what you hand to it.
"""
