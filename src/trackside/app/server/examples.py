"""One working body for each kind of body, whatever agents are served and threads exist; NAME stands for an agent.

A test sends them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trackside.app.server.routing import Endpoint
from trackside.app.server.wire.assistants import AssistantFilter, AssistantSearch, VersionSearch
from trackside.app.server.wire.crons import CronCount, CronCreate, CronSearch, CronUpdate
from trackside.app.server.wire.items import ItemName, ItemPut, ItemSearch, NamespaceSearch
from trackside.app.server.wire.protocol import EventsWanted, ProtocolCommand
from trackside.app.server.wire.runs import Batch, CancelMany, RetryMany, RunCreate
from trackside.app.server.wire.states import HistorySearch, StateAt, StateChange
from trackside.app.server.wire.subscriptions import ParkedChoice, SubscriptionCreate, SubscriptionSeek
from trackside.app.server.wire.threads import ThreadChange, ThreadCount, ThreadCreate, ThreadPrune, ThreadSearch

AGENT: Final = "NAME"

_EXAMPLES: Final[Mapping[Any, Any]] = {
    RunCreate: {
        "assistant_id": AGENT,
        "input": {"messages": [{"role": "user", "content": "How do I …?"}]},
        "stream_mode": ["values", "custom"],
        "metadata": {"team": "red"},
        "if_not_exists": "create",
    },
    CronCreate: {"assistant_id": AGENT, "schedule": "30 9 * * MON-FRI", "timezone": "Europe/Berlin", "input": {}},
    CronUpdate: {"schedule": "0 10 * * *", "enabled": False, "metadata": {"team": "red"}},
    CronSearch: {"metadata": {"team": "red"}, "limit": 10, "sort_by": "next_run_date", "sort_order": "asc"},
    CronCount: {"metadata": {"team": "red"}},
    Batch: [
        {"assistant_id": AGENT, "input": {"question": "How do I …?"}},
        {"assistant_id": AGENT, "input": {"question": "And then?"}},
    ],
    ThreadCreate: {"metadata": {"customer": "ada"}, "if_exists": "raise", "ttl": {"ttl": 43_200}},
    ThreadChange: {"metadata": {"seen": True}},
    ThreadSearch: {"metadata": {"customer": "ada"}, "status": "idle", "limit": 10, "sort_by": "updated_at"},
    ThreadCount: {"metadata": {"customer": "ada"}},
    ThreadPrune: {"thread_ids": [], "strategy": "keep_latest"},
    CancelMany: {"status": "all"},
    RetryMany: {"run_ids": ["00000000-0000-4000-8000-000000000000"]},
    StateAt: {"checkpoint": {}, "subgraphs": True},
    StateChange: {"values": {"approved": True}},
    HistorySearch: {"limit": 10},
    AssistantFilter: {"graph_id": AGENT},
    AssistantSearch: {"graph_id": AGENT, "limit": 10, "sort_by": "name", "sort_order": "asc"},
    VersionSearch: {"limit": 10},
    ItemPut: {"namespace": ["memories", "ada"], "key": "coffee", "value": {"likes": "black", "cups": 2}, "ttl": 1_440},
    ItemName: {"namespace": ["memories", "ada"], "key": "coffee"},
    ItemSearch: {"namespace_prefix": ["memories"], "filter": {"cups": {"$gte": 2}}, "limit": 10},
    NamespaceSearch: {"prefix": ["memories"], "max_depth": 2},
    SubscriptionCreate: {"name": "mail", "types": ["run_failed"], "start": "now"},
    SubscriptionSeek: {"position": "beginning"},
    ParkedChoice: {},
    ProtocolCommand: {"id": 1, "method": "run.start", "params": {"assistant_id": AGENT, "input": {"question": "How?"}}},
    EventsWanted: {"channels": ["lifecycle", "messages", "values"], "since": 0},
}


def example_of(endpoint: Endpoint) -> Any:
    """A body that this endpoint takes; None if there is no example."""
    return _EXAMPLES.get(endpoint.body)
