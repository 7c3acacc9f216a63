"""Worker processes: order, laziness, and a killed worker."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from preprocessing.errors import PreprocessingError, SourceError
from preprocessing.workers import ITEMS_PER_WORKER, worker_pool


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_and_input_is_taken_one_batch_ahead(workers: int) -> None:
    taken: list[int] = []

    def batches() -> object:
        for number in range(5):
            taken.append(number)
            yield [str(10 * number + digit) for digit in range(3)]

    with worker_pool(workers, 2 * ITEMS_PER_WORKER) as pool:
        results = pool.map(int, batches())
        assert next(results) == [0, 1, 2]
        assert len(taken) <= 2
        assert list(results) == [[10 * n, 10 * n + 1, 10 * n + 2] for n in range(1, 5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_input_costs_no_result_that_came_before_it(workers: int) -> None:
    """Images of one shard are read while the last ones of another are encoded, which is to be finished."""

    def batches() -> Iterator[list[str]]:
        yield ["1"]
        yield ["2"]
        raise SourceError("the third cannot be read")

    with worker_pool(workers, 2 * ITEMS_PER_WORKER) as pool:
        results = pool.map(int, batches())
        assert [next(results), next(results)] == [[1], [2]]
        with pytest.raises(SourceError):
            next(results)


def test_small_jobs_start_no_process() -> None:
    with worker_pool(8, ITEMS_PER_WORKER) as pool:
        assert list(pool.map(lambda _: os.getpid(), [[0]])) == [[os.getpid()]]  # a lambda could not travel


def test_an_error_in_a_worker_arrives_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"), worker_pool(2, 2 * ITEMS_PER_WORKER) as pool:
        list(pool.map(int, [["1", "x"]]))


def test_a_killed_worker_is_explained() -> None:
    with (
        pytest.raises(PreprocessingError, match="fewer --workers .flows have"),
        worker_pool(2, 2 * ITEMS_PER_WORKER) as pool,
    ):
        list(pool.map(os._exit, [[9]]))


def test_want_of_memory_is_explained() -> None:
    for workers in (1, 2):
        with (
            pytest.raises(
                PreprocessingError, match=r"not enough memory\. Finished shards are kept: run again, with fewer"
            ),
            worker_pool(workers, 2 * ITEMS_PER_WORKER) as pool,
        ):
            list(pool.map(bytearray, [[1 << 62]]))
