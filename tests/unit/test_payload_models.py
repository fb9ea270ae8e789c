"""Pydantic models in payloads: what is shown of one that cannot show itself, and that nothing it keeps back is."""

import datetime as dt
import json
from typing import Any, NamedTuple, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, field_serializer, model_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from trackside.harness.errors import PayloadError
from trackside.harness.payload import canonical


class Trip(BaseModel):
    """Shows its day in a form that it does not accept itself."""

    model_config = ConfigDict(extra="allow")

    to: str
    day: dt.date
    card: str = Field(default="4711", exclude=True)
    phone: str = "0123"
    next: "Trip | None" = None

    @field_serializer("day")
    def as_shown(self, day: dt.date) -> str:
        return day.strftime("%d.%m.%Y")

    @field_serializer("phone")
    def without_most(self, phone: str) -> str:
        return f"…{phone[-1]}"

    @computed_field
    def label(self) -> str:
        return f"to {self.to}"


def test_a_model_of_what_its_serializer_has_made_is_shown_by_its_fields() -> None:
    home = Trip(to="Bonn", day=dt.date(2026, 5, 3))
    read_back = Trip.model_construct(to="Rome", day="01.05.2026", card="4711", phone="0123", next=home, seat="7A")

    plain, changed = canonical({"trips": [read_back, home]})

    shown = {"to": "Bonn", "day": "03.05.2026", "phone": "…3", "next": None, "label": "to Bonn"}
    rome = {"to": "Rome", "day": "01.05.2026", "phone": "…3", "next": shown, "seat": "7A", "label": "to Rome"}
    assert plain == {"trips": [rome, shown]}
    assert changed


class Trips(RootModel[list[Trip]]):
    pass


def test_a_model_that_is_a_list_of_such_models_is_shown_whole() -> None:
    read_back = Trip.model_construct(to="Rome", day="01.05.2026", phone="0123")
    plain, _ = canonical(Trips.model_construct([read_back, Trip(to="Bonn", day=dt.date(2026, 5, 3))]))

    assert [trip["day"] for trip in plain] == ["01.05.2026", "03.05.2026"]


class Masked(BaseModel):
    secret: str

    @model_serializer
    def masked(self) -> str:
        raise OSError(len(self.secret))


class Hiding(BaseModel):
    secret: str
    day: dt.date

    @field_serializer("day")
    def as_shown(self, day: dt.date) -> str:
        return day.strftime("%d.%m.%Y")

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return super().model_dump(exclude={"secret"}, **options)


@pytest.mark.parametrize(
    "model", [Masked(secret="4711"), Hiding.model_construct(secret="4711", day="01.05.2026")], ids=repr
)
def test_a_model_that_fails_in_its_own_way_to_show_itself_is_shown_by_none_of_its_fields(model: BaseModel) -> None:
    with pytest.raises(PayloadError) as caught:
        canonical({"it": model})
    assert "4711" not in str(caught.value)


class Guest(Trip):
    password: str = "4711"


@pydantic_dataclass
class Ticket:
    day: dt.date
    code: str = Field(default="4711", exclude=True)

    @field_serializer("day")
    def as_shown(self, day: dt.date) -> str:
        return day.strftime("%d.%m.%Y")


type Party = dict[str, tuple[Trip, ...]]
type Answers = dict[str, Answers] | list[Answers] | str  # refers to itself


class Row(TypedDict):
    trip: Trip


class Pair(NamedTuple):
    number: int
    trip: Trip


class Booking(BaseModel):
    trip: Trip | None = None
    trips: list[Trip] = []
    party: Party = {}
    row: Row | None = None
    pair: Pair | None = None
    ticket: Ticket | None = None
    answers: Answers = ""
    whatever: Any = None

    @computed_field
    def first(self) -> Trip | None:
        return next(iter(self.trips), None)


def read_back(kind: type[Trip]) -> Trip:
    return kind.model_construct(to="Rome", day="01.05.2026", card="4711", phone="0123")


@pytest.mark.parametrize("held", [
    {"trip": read_back(Guest)},
    {"trips": [read_back(Trip), Guest(to="Bonn", day=dt.date(2026, 5, 3))]},
    {"party": {"of two": (Guest(to="Bonn", day=dt.date(2026, 5, 3)), read_back(Trip))}},
    {"row": {"trip": read_back(Guest)}},
    {"pair": Pair(1, read_back(Guest))},
    {"ticket": Ticket.__new__(Ticket)},
])  # fmt: skip
def test_what_pydantic_keeps_back_of_what_is_in_a_field_is_not_shown_where_a_serializer_fails(held: Any) -> None:
    if "ticket" in held:
        vars(held["ticket"]).update(day="01.05.2026", code="4711")
    with pytest.raises(PayloadError) as caught:
        canonical(Booking.model_construct(**held))
    assert "4711" not in str(caught.value)


def test_what_pydantic_keeps_back_of_a_model_that_is_a_list_is_not_shown_either() -> None:
    with pytest.raises(PayloadError) as caught:
        canonical(Trips.model_construct([read_back(Trip), read_back(Guest)]))
    assert "4711" not in str(caught.value)


def test_what_contains_itself_or_is_too_deep_is_shown_in_a_model_as_elsewhere() -> None:
    circle: list[Any] = ["round"]
    circle.append({"again": circle})
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    for whatever, mark in ((circle, "contains itself"), (deep, "nested")):
        shown, changed = canonical(Booking.model_construct(whatever=whatever))
        assert (changed, mark in json.dumps(shown)) == (True, True)


def test_models_in_a_field_are_shown_where_a_serializer_fails_in_one() -> None:
    held: dict[str, Any] = {
        "trip": read_back(Trip),
        "party": {"of one": (read_back(Trip),)},
        "row": {"trip": read_back(Trip)},
        "answers": {"pain": ["much"]},
        "whatever": [read_back(Trip)],
    }
    plain, _ = canonical(Booking.model_construct(**held))

    rome = {"to": "Rome", "day": "01.05.2026", "phone": "…3", "next": None, "label": "to Rome"}
    assert isinstance(plain, dict)
    assert (plain["trip"], plain["party"]) == (rome, {"of one": [rome]})
    assert (plain["row"], plain["whatever"], plain["answers"]) == ({"trip": rome}, [rome], {"pain": ["much"]})
