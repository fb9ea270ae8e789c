"""What the company pays without asking, and what its reports contain."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel

RATES = {"EUR": Decimal(1), "USD": Decimal("0.92"), "GBP": Decimal("1.17"), "CHF": Decimal("1.04")}
"""Euros for one of each currency."""


class Category(StrEnum):
    """What an expense is for."""

    transport = "transport"
    lodging = "lodging"
    meals = "meals"
    other = "other"


LIMITS = {
    Category.transport: Decimal(100),
    Category.lodging: Decimal(180),
    Category.meals: Decimal(60),
    Category.other: Decimal(25),
}
"""The euros of one expense above which a human has to approve it."""


class Rule(BaseModel):
    """What holds for an expense."""

    category: Category
    limit: Decimal


class Amount(BaseModel):
    """An amount in euros."""

    euros: Decimal


class Line(BaseModel):
    """One expense, and what became of it."""

    what: str
    category: Category
    euros: Decimal
    paid: bool
    remark: str = ""


class Report(BaseModel):
    """All expenses, and what is paid."""

    lines: list[Line]
    total: Decimal
