"""The connections to the receivers of runs' webhooks: the server keeps few, however many addresses clients name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from trackside.app.delivery import DeliveryError
from trackside.app.observers.webhook import Poster
from trackside.app.server.run_webhooks import MOST_RECEIVERS, Failures, Receivers
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent


def ended(ago: timedelta = timedelta()) -> RunLifecycleEvent:
    """The end of a run, now: when this module was imported may be long ago."""
    return RunLifecycleEvent(new_id(), LifecycleEventType.RUN_COMPLETED, new_id(), new_id(), 2, datetime.now(UTC) - ago)


def address(number: int) -> str:
    return f"https://receiver-{number}.example.org/hook"


async def test_connections_that_nobody_needs_are_let_go_though_many_end_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receivers = Receivers(None, private=False)
    close = Poster.aclose

    async def close_in_turns(poster: Poster) -> None:
        await asyncio.sleep(0)  # as open connections need to close
        await close(poster)

    monkeypatch.setattr(Poster, "aclose", close_in_turns)
    for number in range(2 * MOST_RECEIVERS):
        receivers.poster_to(address(number))

    async def tell(number: int) -> None:
        async with receivers.place_at(address(number), ended()):
            pass

    async with asyncio.TaskGroup() as tasks:
        for number in range(2 * MOST_RECEIVERS, 2 * MOST_RECEIVERS + 3):
            tasks.create_task(tell(number))
    assert len(receivers) == MOST_RECEIVERS
    await receivers.aclose()


async def test_addresses_that_are_only_named_here_are_not_kept_for_ever() -> None:
    receivers = Receivers(None, private=False)
    for number in range(2 * MOST_RECEIVERS):
        receivers.poster_to(address(number))
        await receivers.let_idle_ones_go()
    assert len(receivers) == MOST_RECEIVERS
    await receivers.aclose()


async def test_a_connection_on_which_somebody_is_being_told_is_not_let_go_for_others() -> None:
    receivers = Receivers(None, private=False)
    async with receivers.place_at(address(0), ended()) as poster:
        for number in range(1, 2 * MOST_RECEIVERS):
            receivers.poster_to(address(number))
            await receivers.let_idle_ones_go()
        assert len(receivers) == MOST_RECEIVERS
        assert receivers.poster_to(address(0)) is poster
    await receivers.aclose()


async def test_an_address_that_is_not_allowed_any_more_is_the_trouble_of_its_own_run() -> None:
    receivers = Receivers(None, private=False)  # as if private ones had been allowed before
    with pytest.raises(DeliveryError, match="private_webhooks") as refused:
        async with receivers.place_at("http://127.0.0.1:8080/hook", ended()):
            pass
    assert not refused.value.retryable
    assert not refused.value.away
    await receivers.aclose()


async def test_addresses_of_one_server_share_its_places() -> None:
    receivers = Receivers(None, private=False)
    paths = [f"https://slow.example.org{port}/hook/{number}" for number in range(4) for port in ("", ":443")]
    async with AsyncExitStack() as under_way:
        for url in paths:
            await under_way.enter_async_context(receivers.place_at(url, ended()))
        for same in ("SLOW.example.org", "slow.example.org."):
            with pytest.raises(DeliveryError) as refused:
                await under_way.enter_async_context(receivers.place_at(f"https://{same}/hook/9", ended()))
            assert (refused.value.held_back, refused.value.retry_after) == (True, 0.25)
        await under_way.enter_async_context(receivers.place_at(address(1), ended()))
    async with receivers.place_at("https://slow.example.org/hook/9", ended()):
        pass
    await receivers.aclose()


async def test_a_server_that_takes_nothing_has_one_place_and_what_waits_for_it_is_given_up_in_time() -> None:
    receivers = Receivers(None, private=False)

    async def fail(*, retryable: bool = True) -> None:
        with pytest.raises(DeliveryError):
            async with receivers.place_at(address(1), ended()):
                raise DeliveryError(receiver="it", what="this", why="it is away", retryable=retryable)

    for _ in range(7):
        await fail()
    await fail(retryable=False)  # an answer, though one that takes nothing
    for _ in range(7):
        await fail()
    async with receivers.place_at(address(1), ended()), receivers.place_at(address(1), ended()):
        pass
    for _ in range(8):
        await fail()
    async with receivers.place_at(address(1), ended()), receivers.place_at(address(2), ended()):
        with pytest.raises(DeliveryError, match="none of the last 8") as refused:
            async with receivers.place_at(address(1), ended()):
                pass
        assert refused.value.retryable
        assert not refused.value.held_back  # it counts as a try: in the end it is parked, and makes room for others
    async with receivers.place_at(address(1), ended()), receivers.place_at(address(1), ended()):
        pass
    await receivers.aclose()


async def test_an_address_is_not_given_up_unasked_because_others_of_its_server_fail() -> None:
    receivers = Receivers(None, private=False)
    ada, bob, cleo = (f"https://hooks.example.org/{name}" for name in ("ada", "bob", "cleo"))
    hours_ago = ended(timedelta(hours=1))

    async def fail(url: str) -> None:
        with pytest.raises(DeliveryError):
            async with receivers.place_at(url, ended()):
                raise DeliveryError(receiver="it", what="this", why="it is away", retryable=True)

    async def is_held_back(url: str, event: RunLifecycleEvent | None = None) -> bool:
        with pytest.raises(DeliveryError, match="one by one") as refused:
            async with receivers.place_at(url, event or ended()):
                pass
        assert refused.value.retryable
        return refused.value.held_back

    for _ in range(8):
        await fail(ada)
    async with receivers.place_at(ada, ended()):
        assert not await is_held_back(ada)
        await fail(bob)  # Bob is asked, though it is Ada's turn
        assert not await is_held_back(bob), "he has failed himself"
        async with receivers.place_at(cleo, ended()):
            assert not await is_held_back(bob)
            assert await is_held_back(cleo), "which does not count: she may be there"
            assert not await is_held_back(cleo, hours_ago), "her ends would wait for ever"
        async with receivers.place_at(bob, ended()), receivers.place_at(bob, ended()):
            pass  # the server has taken one of Cleo's
    await receivers.aclose()


def test_of_how_many_servers_failures_are_known() -> None:
    failures = Failures()
    failures.add("https://one.example.org")
    for number in range(2_000):
        failures.add(address(number))
    assert failures["https://one.example.org"] == 0
    assert failures[address(1_999)] == 1


async def test_how_long_a_receiver_wants_to_be_left_alone_is_passed_on_and_holds_up_no_other() -> None:
    receivers = Receivers(None, private=False)
    with pytest.raises(DeliveryError) as refused:
        async with receivers.place_at(address(1), ended()):
            raise DeliveryError(receiver="it", what="this", why="it is busy", away=True, retry_after=7.0)
    assert (refused.value.retryable, refused.value.retry_after, refused.value.away) == (True, 7.0, False)
    await receivers.aclose()


async def test_the_connection_that_was_named_longest_ago_is_let_go_first() -> None:
    receivers = Receivers(None, private=False)
    kept = [receivers.poster_to(address(number)) for number in range(MOST_RECEIVERS)]
    assert receivers.poster_to(address(0)) is kept[0]
    receivers.poster_to(address(MOST_RECEIVERS))
    await receivers.let_idle_ones_go()
    assert receivers.poster_to(address(0)) is kept[0]
    assert receivers.poster_to(address(1)) is not kept[1]
    await receivers.aclose()


def test_who_fails_again_is_not_forgotten_for_others() -> None:
    failures = Failures()
    for number in (*range(1_000), 0, 1_000):
        failures.add(address(number))
    assert [failures[address(number)] for number in (0, 1, 2)] == [2, 0, 1]
