"""The agent as `trackside` and LangGraph's own tools load it: `examples/research/agent.py:graph`.

`RESEARCH_DOCS` names a folder to read instead of the installed packages' READMEs; `thinking` says how to use a model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __package__ != "research":  # loaded by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from research.graph import Research, build_graph

_DOCS = os.environ.get("RESEARCH_DOCS") or None

graph = build_graph(Research(docs=_DOCS))
"""Answers a question."""

reviewed = build_graph(Research(docs=_DOCS, approve=True))
"""Asks a human to approve its plan first."""

deep = build_graph(Research(docs=_DOCS, deep=True))
"""Follows up what it finds until there is nothing new."""
