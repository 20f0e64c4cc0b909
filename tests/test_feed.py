import sys

import pytest

from handler.feed import Feed, Job
from tests.fakes import SumCore


def run_batch(feed: Feed, core: SumCore) -> list[Job]:
    """Give the engine its next batch and run it; return the requests that are finished."""
    feed.fill(core)
    finished = [job for key, vector in core.step() if (job := feed.deliver(key, vector)) is not None]
    feed.learn(core)
    return finished


@pytest.mark.parametrize("length", [3, 4, 5, 8, 16])
def test_neither_bulk_nor_query_waits_for_the_other(length: int) -> None:
    """Whether or not texts fill a batch exactly: a query is in the next one, and the bulk request goes on in each."""
    core, feed = SumCore(batch_size=64), Feed()
    core.batch_tokens = 32
    bulk = Job([[1] * length] * 40, priority=0)
    feed.add(bulk, dimensions=core.dimensions)
    run_batch(feed, core)
    for _ in range(40):
        query = Job([[1]], priority=0)
        feed.add(query, dimensions=core.dimensions)
        left = bulk.waiting
        assert query in run_batch(feed, core)
        assert bulk.waiting < left or not left
    assert bulk.waiting == 0


def test_a_bulk_request_goes_on_beside_many_small_ones() -> None:
    """As long as others bring as much as a batch holds, it has half of each."""
    core, feed = SumCore(batch_size=64), Feed()
    core.batch_tokens = 32
    bulk = Job([[1] * 8] * 20, priority=0)
    feed.add(bulk, dimensions=core.dimensions)
    steps = 0
    while bulk.waiting:
        feed.add(Job([[1] * 8] * 4, priority=0), dimensions=core.dimensions)
        run_batch(feed, core)
        steps += 1
    assert steps <= 12


def test_an_engine_that_orders_texts_itself_gets_them_all() -> None:
    """Also those that were there before its first batch."""
    core, feed = SumCore(batch_size=4, room=sys.maxsize), Feed()
    core.batch_tokens = sys.maxsize
    feed.add(Job([[1]] * 1000, priority=5), dimensions=core.dimensions)
    feed.add(Job([[2]] * 10, priority=-5), dimensions=core.dimensions)
    feed.fill(core)
    assert len(core.waiting) == 1010
