"""The one client of a status feed: it is that of the feed's account, by whatever connection still means it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from panda_airflow.client import ClientConfig, CredentialRefused, NotDelivered, NotOurs, PandaClient
from panda_airflow.client.stored import Account
from panda_airflow.waiting.feed.push import BrokerListener
from panda_airflow.waiting.feed.threads import ClientThreads

BOB = Account("http://panda:25080", "Bob Tester")


def client(name: str = "bob tester", url: str = "http://panda:25080", serial: str = "") -> PandaClient:
    claims = base64.urlsafe_b64encode(json.dumps({"name": name, "serial": serial}).encode()).decode().rstrip("=")
    return PandaClient(ClientConfig.from_env({}, url=url, auth="oidc", vo="wlcg", token=f"e30.{claims}.e30"))


def unreadable() -> PandaClient:
    raise NotDelivered("Airflow cannot read the connection")


@pytest.fixture
def link() -> Iterator[ClientThreads]:
    def listen(_: ClientConfig) -> BrokerListener:
        raise AssertionError("no broker is configured")

    made = ClientThreads(BOB, listen)
    yield made
    made.close()


def ask(
    link: ClientThreads, ways: dict[str, Callable[[], PandaClient]], call: Callable[[PandaClient], Any] = id
) -> Any:
    link.ways = dict(ways)
    return asyncio.run(link.run(call))


def test_one_client_serves_all(link: ClientThreads) -> None:
    assert ask(link, {"one": client}) == ask(link, {"one": client})


@pytest.mark.parametrize("found", [{"name": "eve other"}, {"url": "http://elsewhere:25080"}])
def test_a_connection_that_means_another_account_is_not_used(link: ClientThreads, found: dict[str, str]) -> None:
    with pytest.raises(NotOurs, match=r"belongs to Bob Tester at http://panda:25080, .* edited now means"):
        ask(link, {"edited": lambda: client(**found)})
    assert ask(link, {"edited": lambda: client(**found), "other": client})


def test_a_connection_that_cannot_be_read_is_passed_over(link: ClientThreads) -> None:
    assert ask(link, {"gone": unreadable, "other": client})
    with pytest.raises(NotDelivered):
        ask(ClientThreads(BOB, lambda _: None), {"gone": unreadable})  # type: ignore[arg-type, return-value]


def test_after_a_refusal_the_other_connections_have_their_turn(link: ClientThreads) -> None:
    """One may hold a token that has expired, and another, of the same person, one that has not."""

    def refuse(_: PandaClient) -> None:
        raise CredentialRefused("no")

    ways = {"stale": client, "fresh": lambda: client(serial="1")}
    link.ways = dict(ways)
    with pytest.raises(CredentialRefused):
        asyncio.run(link.run(refuse))
    token = client(serial="1").config.token
    assert asyncio.run(link.run(lambda asked: asked.config.token)) == token


def test_an_unknown_account_is_not_compared() -> None:
    link = ClientThreads(replace(BOB, server="", user=""), lambda _: None)  # type: ignore[arg-type, return-value]
    assert ask(link, {"any": client})
    link.close()
