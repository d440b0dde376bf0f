"""What a status feed tells Airflow's metrics."""

from __future__ import annotations

from airflow.observability.stats import gauge, incr

from panda_airflow.waiting.feed.poller import Feed


def export(feed: Feed) -> None:
    """Tell the waits and the lag of a feed, and what it has asked, learned and failed to learn since it last told.

    The gauges are ``panda.feed.waiting`` and ``panda.feed.lag`` (seconds since the last answer), the counters
    ``panda.feed.questions`` (bulk requests), ``.looks`` (requests for single tasks), ``.changes`` and ``.failures``;
    each is tagged with its ``connection``.
    """
    tags = {"connection": feed.name}
    gauge("panda.feed.waiting", len(feed.waiters), tags=tags)
    if feed.answered is not None:
        gauge("panda.feed.lag", feed.lag, tags=tags)
    for name, count in feed.counts().items():
        incr(f"panda.feed.{name}", count, tags=tags)
