"""The support desk of the examples: its rules, which need no model, and its use from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support_desk.agent import build_desk, model_of_environment
from support_desk.orders import OrderError, Shop
from support_desk.rules import RuleModel, Talk, at_the_front
from tests.integration.langgraph.conftest import open_stage, stage

from trackside import RunStatus

__all__ = ["open_stage", "stage"]

AGENT = Path(__file__).parents[2] / "examples" / "support_desk" / "agent.py"
TRACKSIDE = Path(sys.executable).with_name("trackside")


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def desk(shop: Shop) -> Any:
    return build_desk(shop, RuleModel)


async def test_a_customer_is_handed_over_and_gets_an_answer(stage: Any, desk: Any) -> None:
    outcome = await stage.play(desk, "Where is my order 1002?", stream_mode=["values", "messages"])
    assert outcome.values["output"] == "Order 1002: two bicycle tyres, 58.00 €, on its way, expected tomorrow."
    assert outcome.usage["token_usage_by_caller"].keys() == {"lead_agent", "Orders"}
    said = "".join(message["content"] for message, _ in outcome.streamed("messages") if message["type"] != "tool")
    assert said == outcome.values["output"]


async def test_a_conversation_goes_on_where_it_was(stage: Any, desk: Any) -> None:
    hello = await stage.play(desk, "Hello", thread_id="thread")
    asked = await stage.play(desk, "It is about an order", thread_id="thread")
    told = await stage.play(desk, "Order 1001, please", thread_id="thread")
    assert "Which order" in hello.values["output"]
    assert "four digits" in asked.values["output"]
    assert told.values["output"].startswith("Order 1001: a kettle")


@pytest.mark.parametrize(("answer", "refunded"), [("yes", 24.5), ({"approved": False, "message": "Too late."}, 0.0)])
async def test_a_refund_waits_for_a_human(stage: Any, desk: Any, shop: Shop, answer: Any, refunded: float) -> None:
    asked = await stage.play(desk, "Order 1003 came broken, I want a refund", thread_id="thread")
    assert asked.status is RunStatus.interrupted
    (question,) = asked.interrupts
    assert question["value"] == {"tool": "refund", "arguments": {"number": "1003", "amount": 24.5}, "agent": "Refunds"}
    assert shop.orders["1003"].refunded == 0.0
    done = await stage.play(desk, thread_id="thread", command={"resume": answer})
    assert shop.orders["1003"].refunded == refunded
    assert ("24.50 € are on their way" in done.values["output"]) == bool(refunded)
    assert refunded or done.values["output"] == "Too late."


async def test_what_cannot_be_done_is_told_to_the_customer(stage: Any, desk: Any, shop: Shop) -> None:
    outcome = await stage.play(desk, "Refund order 9999")
    assert outcome.values["output"] == "There is no order 9999."
    with pytest.raises(OrderError, match=r"at most 39\.90 €"):
        shop.refund("1001", 40)


def test_a_key_has_a_model_think(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert isinstance(model_of_environment(at_the_front), RuleModel)
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert model_of_environment(at_the_front) == "gpt-5-mini"
    monkeypatch.setenv("OPENAI_MODEL", "another")
    assert model_of_environment(at_the_front) == "another"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1")
    assert type(model_of_environment(at_the_front)).__name__ == "OpenAIChatCompletionsModel"


async def test_without_streaming_the_rules_say_the_same() -> None:
    response = await RuleModel(at_the_front).get_response(None, "Hello")
    assert "Which order" in response.output[0].content[0].text  # type: ignore[union-attr]
    assert Talk.of([{"role": "user", "content": [{"type": "input_text", "text": "order 1001"}]}]).order == "1001"


def test_the_command_line_asks_and_takes_the_answer(tmp_path: Path) -> None:
    rules_think = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TRACKSIDE_"))}

    def trackside(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(TRACKSIDE), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=rules_think, capture_output=True, text=True, timeout=60, check=False
        )

    asked = trackside("run", f"{AGENT}:agent", "Refund order 1001", "--thread", "t")
    assert asked.returncode == 75, asked.stderr
    assert "refund" in asked.stdout
    done = trackside("resume", "t", "true", "--json")
    assert done.returncode == 0, done.stderr
    assert "39.90 € are on their way" in json.loads(done.stdout.splitlines()[-1])["result"]["output"]
