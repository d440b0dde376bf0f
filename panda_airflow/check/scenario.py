"""Scenarios: each asks a server something and tells facts; many are played side by side in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.client.errors import PandaError
from panda_airflow.client.http.envelope import refusal
from panda_airflow.client.models import Envelope
from panda_airflow.client.session import PandaClient

SAME, DIFFERENT, LATE, NOT_PLAYED = "same", "different", "not seen in time", "not played"
"""How what was seen compares with what was expected."""


class NotHere(Exception):
    """A scenario cannot be played on this server or as this identity; says why."""


@dataclass(frozen=True)
class Answer:
    """What a server answered, whether it is a yes or a no.

    :param word: ``accepted``, or the name of the error by which the client would report the refusal.
    :param envelope: as it came; of a reply that is none, only the error's text.
    """

    word: str
    envelope: Envelope


def ask(client: PandaClient, path: str, **arguments: Any) -> Answer:
    """Send one request, once, with arguments that nobody checks.

    :param path: ``module/method``.
    """
    endpoint = REGISTRY[path]
    try:
        envelope = client.send(replace(endpoint, ok=lambda _: True, idempotent=False), arguments)
    except PandaError as error:
        return Answer(type(error).__name__, Envelope(success=False, message=str(error)))
    accepted = endpoint.ok(envelope)
    return Answer("accepted" if accepted else type(refusal(endpoint, envelope)).__name__, envelope)


@dataclass(frozen=True)
class Wait:
    """What a scenario waits for.

    :param what: in words, for when it does not come.
    :param over: gives something true once it has come, which the scenario receives.
    :param task_id: JediTaskID of the task that must be looked at for it; 0 for none.
    """

    what: str
    over: Callable[[], Any]
    task_id: int = 0


class Stage:
    """What a scenario plays on: a client to ask with, and the facts it has told.

    :param client: of the server that is asked.
    """

    def __init__(self, client: PandaClient) -> None:
        self.client = client
        self.facts: list[str] = []

    def tell(self, *facts: str) -> None:
        """Note what was seen, in a few words each, without numbers or names that another server would not give."""
        self.facts += facts

    def ask(self, path: str, **arguments: Any) -> Answer:
        """Send one request; see :func:`ask`."""
        return ask(self.client, path, **arguments)


S = TypeVar("S", bound=Stage)
Play = Generator[Wait, Any, None]


@dataclass(frozen=True)
class Scenario(Generic[S]):
    """Something to ask a server.

    :param name: for the table.
    :param play: asks and tells; a generator if it has to wait for something.
    :param expects: the facts that a real server gives, in this order.
    :param jobs: how many jobs it makes at most.
    """

    name: str
    play: Callable[[S], Play | None]
    expects: tuple[str, ...]
    jobs: int = 0


def scenario_of(
    book: list[Scenario[S]],
) -> Callable[..., Callable[[Callable[[S], Play | None]], Callable[[S], Play | None]]]:
    """Make the decorator that enters a function into a list of scenarios.

    :param book: the list.
    """

    def scenario(
        name: str, *expects: str, jobs: int = 0
    ) -> Callable[[Callable[[S], Play | None]], Callable[[S], Play | None]]:
        def enter(play: Callable[[S], Play | None]) -> Callable[[S], Play | None]:
            book.append(Scenario(name, play, expects, jobs))
            return play

        return enter

    return scenario


@dataclass(frozen=True)
class Result:
    """What a scenario has seen.

    :param scenario: its name.
    :param expects: what it should have seen.
    :param facts: what it saw.
    :param missing: what did not come in time, if anything.
    :param skipped: why it was not played, if it was not.
    """

    scenario: str
    expects: tuple[str, ...]
    facts: tuple[str, ...] = ()
    missing: str = ""
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """Compare with what is expected; what did not come in time is no difference if all before it was right."""
        if self.skipped:
            return NOT_PLAYED
        if self.missing and self.facts == self.expects[: len(self.facts)]:
            return LATE
        return SAME if self.facts == self.expects and not self.missing else DIFFERENT

    def __str__(self) -> str:
        """Tell the facts."""
        told = list(self.facts)
        told += [f"(not seen in time: {self.missing})"] if self.missing else []
        return "; ".join(told) or f"({self.skipped or 'nothing'})"


@dataclass(frozen=True)
class Patience:
    """How long all scenarios together may take.

    :param seconds: after which nothing is waited for any more.
    :param interval: seconds between two rounds of looks.
    """

    seconds: float
    interval: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Act(Generic[S]):
    """A scenario on its stage, as far as it has got."""

    scenario: Scenario[S]
    stage: S
    wait: Wait | None = None
    missing: str = ""
    skipped: str = ""
    _play: Play | None = field(default=None, init=False)

    def begin(self) -> None:
        """Play up to the first wait."""
        self._guard(self._begin)

    def go_on(self, *, late: bool) -> None:
        """Play up to the next wait if this one is over, or give up if it is late."""
        self._guard(lambda: self._go_on(late=late))

    def _begin(self) -> None:
        self._play = self.scenario.play(self.stage)
        self.wait = next(self._play, None) if self._play else None

    def _go_on(self, *, late: bool) -> None:
        if not (self._play and self.wait):
            return
        if found := self.wait.over():
            try:
                self.wait = self._play.send(found)
            except StopIteration:
                self.wait = None
        elif late:
            self.missing, self.wait = self.wait.what, None
            self._play.close()

    def _guard(self, step: Callable[[], None]) -> None:
        """Take a step; what goes wrong, or has another shape than expected, is a fact, too, and the last one."""
        try:
            step()
        except NotHere as reason:
            self.skipped, self.wait = str(reason), None
        except (PandaError, LookupError, TypeError, ValueError, OSError) as error:
            self.stage.tell(f"{type(error).__name__}: {' '.join(str(error).split()):.120}")
            self.wait = None

    @property
    def result(self) -> Result:
        return Result(self.scenario.name, self.scenario.expects, tuple(self.stage.facts), self.missing, self.skipped)


def perform(
    cast: Sequence[tuple[Scenario[S], S]],
    patience: Patience,
    look: Callable[[Sequence[Wait]], None] = lambda _: None,
) -> list[Result]:
    """Play scenarios side by side: all begin, then each goes on as soon as what it waits for has come.

    :param cast: each scenario with a stage of its own.
    :param patience: how long that may take.
    :param look: called before each round with what is waited for, to look at all tasks at once.
    :return: in the same order.
    """
    ends = patience.clock() + patience.seconds
    acts = [_Act(scenario, stage) for scenario, stage in cast]
    for act in acts:
        act.begin()
    while waiting := [act for act in acts if act.wait]:
        late = patience.clock() >= ends
        if not late:
            patience.sleep(patience.interval)
        look([act.wait for act in waiting if act.wait])
        for act in waiting:
            act.go_on(late=late)
    return [act.result for act in acts]
