"""Models without a network: they do by rule what a language model would do by reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from pydantic_ai import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from expenses.policy import Amount, Category, Line, Report, Rule

_EXPENSE = re.compile(
    r"(?P<what>[^\W\d_][^,;\n\d]*?)[\s:]+(?P<amount>\d+(?:\.\d{1,2})?)\s*(?P<currency>[A-Z]{3}\b|[€$£])?"
)
_SIGNS = {"€": "EUR", "$": "USD", "£": "GBP", None: "EUR"}
_WORDS = {
    Category.transport: ("taxi", "train", "flight", "bus", "tram", "fuel", "parking"),
    Category.lodging: ("hotel", "hostel", "room", "apartment"),
    Category.meals: ("breakfast", "lunch", "dinner", "coffee", "restaurant"),
}


@dataclass(frozen=True, slots=True)
class _Expense:
    what: str
    amount: str
    currency: str


class Classifying(FunctionModel):
    """Tells from the words what an expense is for."""

    def __init__(self) -> None:
        super().__init__(_classify, model_name="offline-classifier")


class Checking(FunctionModel):
    """Does the next thing that is missing: rules and rates, then exceptions, then the report."""

    def __init__(self) -> None:
        super().__init__(_check, model_name="offline-checker")


def _classify(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    words = _prompt(messages).lower()
    kinds = (kind for kind, known in _WORDS.items() if any(word in words for word in known))
    return _calls(ToolCallPart(info.output_tools[0].name, {"response": next(kinds, Category.other)}))


def _check(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    expenses = _expenses(_prompt(messages))
    if not expenses:
        text = 'There are no expenses in that. Write what and how much, as "Taxi 38.50 EUR, hotel 240 EUR".'
        return ModelResponse(parts=[TextPart(text)])
    done = _Done(messages)
    if failed := done.failed:
        return ModelResponse(
            parts=[TextPart(f"I cannot check that: {failed.model_response_str(wrap_if_error=False)}.")]
        )
    if missing := [call for expense in expenses for call in done.missing(expense)]:
        return _calls(*missing)
    lines = [done.line(expense) for expense in expenses]
    report = Report(lines=lines, total=sum((line.euros for line in lines if line.paid), Decimal()))
    return _calls(ToolCallPart(info.output_tools[0].name, report.model_dump(mode="json")))


def _expenses(text: str) -> list[_Expense]:
    """The expenses in a text, each under a name of its own, so that no two share an approval."""
    expenses: dict[str, _Expense] = {}
    for found in _EXPENSE.finditer(text):
        what = name = found["what"].strip()
        number = 1
        while name in expenses:
            number += 1
            name = f"{what} ({number})"
        expenses[name] = _Expense(name, found["amount"], _SIGNS.get(found["currency"], found["currency"]))
    return list(expenses.values())


class _Done:
    """What the tools have returned since the human spoke, by what they were asked about."""

    def __init__(self, messages: Sequence[ModelMessage]) -> None:
        calls = {
            part.tool_call_id: part
            for message in messages
            if isinstance(message, ModelResponse)
            for part in message.parts
            if isinstance(part, ToolCallPart)
        }
        self._results: dict[tuple[str, str], ToolReturnPart] = {}
        for part in _since_prompt(messages):
            if isinstance(part, ToolReturnPart):
                arguments = calls[part.tool_call_id].args_as_dict()
                subject = arguments.get("what") or f"{arguments['amount']} {arguments['currency']}"
                self._results[part.tool_name, subject] = part

    @property
    def failed(self) -> ToolReturnPart | None:
        """A call that would have to be made differently, which rules cannot do."""
        return next((result for result in self._results.values() if result.outcome == "retried"), None)

    def missing(self, expense: _Expense) -> list[ToolCallPart]:
        """The next calls for an expense; none if it is settled."""
        needed = []
        if ("classify", expense.what) not in self._results:
            needed.append(ToolCallPart("classify", {"what": expense.what}))
        if ("convert", self._money(expense)) not in self._results:
            needed.append(ToolCallPart("convert", {"amount": expense.amount, "currency": expense.currency}))
        if not needed and self._is_above(expense) and ("grant_exception", expense.what) not in self._results:
            rule, euros = self._rule(expense), self._euros(expense)
            arguments = {"what": expense.what, "euros": str(euros), "limit": str(rule.limit)}
            needed.append(ToolCallPart("grant_exception", arguments))
        return needed

    def line(self, expense: _Expense) -> Line:
        """What became of an expense."""
        rule, euros = self._rule(expense), self._euros(expense)
        granted = self._results.get(("grant_exception", expense.what))
        paid = granted is None or granted.outcome == "success"
        remark = "" if granted is None else granted.model_response_str(wrap_if_error=False)
        return Line(what=expense.what, category=rule.category, euros=euros, paid=paid, remark=remark)

    def _is_above(self, expense: _Expense) -> bool:
        return self._euros(expense) > self._rule(expense).limit

    def _rule(self, expense: _Expense) -> Rule:
        return Rule.model_validate(self._results["classify", expense.what].model_response_object())

    def _euros(self, expense: _Expense) -> Decimal:
        return Amount.model_validate(self._results["convert", self._money(expense)].model_response_object()).euros

    def _money(self, expense: _Expense) -> str:
        return f"{expense.amount} {expense.currency}"


def _calls(*calls: ToolCallPart) -> ModelResponse:
    return ModelResponse(parts=list(calls))


def _since_prompt(messages: Sequence[ModelMessage]) -> list[object]:
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    asked = max(index for index, part in enumerate(parts) if isinstance(part, UserPromptPart))
    return list(parts[asked:])


def _prompt(messages: Sequence[ModelMessage]) -> str:
    prompt = _since_prompt(messages)[0]
    assert isinstance(prompt, UserPromptPart)
    content = prompt.content
    return content if isinstance(content, str) else "\n".join(part for part in content if isinstance(part, str))
