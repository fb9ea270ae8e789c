"""What Grafana reads: panels in rows, one below another, and variables to choose by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trackside.harness.types import JsonObject

_SCHEMA_VERSION = 39  # of Grafana 10.4; later versions accept it, and upgrade it to their own
_COLUMNS = 24
_HEIGHT = 8
_SOURCE: JsonObject = {"type": "prometheus", "uid": "${datasource}"}

type GrafanaUnit = Literal["short", "s", "bytes", "currencyUSD", "percentunit", "ops"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and the name of its series in the legend."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: lines over time, stacked if they are parts of a whole."""

    title: str
    unit: GrafanaUnit
    queries: Sequence[Query]
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: Sequence[Panel]


def dashboard(title: str, rows: Sequence[Row], choices: Sequence[JsonObject]) -> JsonObject:
    """A dashboard as Grafana imports it, with a data source to choose."""
    return {
        "uid": title.lower(),
        "title": title,
        "tags": [title.lower()],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), *choices]},
        "annotations": {"list": []},
        "panels": [*_laid_out(rows)],
    }


def choice(label: str, metric: str) -> JsonObject:
    """A variable: some or all of the values that a label of a metric has."""
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{label}"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": 1,
    }


def _laid_out(rows: Sequence[Row]) -> Iterable[JsonObject]:
    """Rows, one below another, and the panels of each side by side, as many as fit."""
    number = y = 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        across = 3 if len(row.panels) % 3 == 0 else 2
        width = _COLUMNS // across
        for index, panel in enumerate(row.panels):
            number += 1
            place = {"h": _HEIGHT, "w": width, "x": index % across * width, "y": y + 1 + index // across * _HEIGHT}
            yield _shown(panel, number, place)
        y += 1 + math.ceil(len(row.panels) / across) * _HEIGHT


def _shown(panel: Panel, number: int, place: JsonObject) -> JsonObject:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 20 if panel.stacked else 0,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _datasource() -> JsonObject:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "refresh": 1,
    }
