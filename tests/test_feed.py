import sys
from typing import Any

import pytest

from handler.feed import Feed, Job
from tests.fakes import SumCore


def run_batch(feed: Feed, core: SumCore) -> list[Job]:
    """Give the engine its next batch and run it; return the requests that are finished."""
    feed.fill(core)
    finished = [job for key, vector in core.step() if (job := feed.deliver(key, vector)) is not None]
    feed.learn(core)
    return finished


@pytest.mark.parametrize(("length", "batches"), [(3, 1), (4, 1), (5, 1), (8, 1), (16, 1), (20, 1), (31, 1), (32, 2)])
def test_neither_bulk_nor_query_waits_for_the_other(length: int, batches: int) -> None:
    """Whether or not texts fill a batch: a query is in the next one with room for it, and the bulk request goes on."""
    core, feed = SumCore(batch_size=64), Feed()
    core.batch_tokens = 32
    bulk = Job([[1] * length] * 40, priority=0)
    feed.add(bulk, dimensions=core.dimensions)
    run_batch(feed, core)
    while bulk.waiting:
        query = Job([[1]], priority=0)
        feed.add(query, dimensions=core.dimensions)
        left = bulk.waiting
        assert query in [job for _ in range(batches) for job in run_batch(feed, core)]
        assert bulk.waiting < left
        assert len(core.waiting) <= 3


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


def test_an_engine_that_splits_texts_gets_no_more_than_it_can_use() -> None:
    """Also of texts that are longer than a batch: what waits in it, nobody overtakes."""

    class SplittingCore(SumCore):
        """Computes tokens of one text after the other."""

        splits_texts = True
        computed = 0

        def step(self) -> list[tuple[int, Any]]:
            """Run one batch."""
            self.computed += self.batch_tokens
            finished: list[tuple[int, Any]] = []
            for key, token_ids in list(self.waiting.items()):
                if len(token_ids) > self.computed:
                    return finished
                self.computed -= len(token_ids)
                finished.append((key, self._vector(self.waiting.pop(key))))
            self.computed = 0
            return finished

    core, feed = SplittingCore(), Feed()
    core.batch_tokens, core.batch_texts, core.splits_texts = 32, 64, True
    bulks = [Job([[1] * 100] * 30, priority=0) for _ in range(2)]
    for bulk in bulks:
        feed.add(bulk, dimensions=core.dimensions)
    query = Job([[1]], priority=0)
    feed.add(query, dimensions=core.dimensions)
    steps = 0
    while query.waiting:
        run_batch(feed, core)
        steps += 1
        assert len(core.waiting) <= 3
    assert steps <= 8
    while any(bulk.waiting for bulk in bulks):
        run_batch(feed, core)
        assert len(core.waiting) <= 3
