"""Batches that do not fit: halved, remembered, and never while the failed one still holds its memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from moa.evaluation.memory import MemoryBound


class Device:
    """Has room for `room` items, and for one call's at a time."""

    def __init__(self, room: int):
        self.room, self.calls, self.held = room, [], []

    def __call__(self, items):
        assert not any(held() for held in self.held), "the failed call's memory is still taken"
        self.calls.append(len(items))
        activations = torch.zeros(len(items))
        self.held = [weakref.ref(activations)]
        if len(items) > self.room:
            raise torch.OutOfMemoryError("too many")
        return [item * 2 for item in items]


def test_a_batch_is_halved_until_it_fits_and_the_next_starts_there():
    device, bound = Device(3), MemoryBound()
    parts = list(bound(device, range(8)))
    assert [list(part) for part, _ in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [found for _, found in parts] == [[0, 2], [4, 6], [8, 10], [12, 14]]
    assert device.calls == [8, 4, 2, 2, 2, 2]
    assert [list(part) for part, _ in bound(device, range(3))] == [[0, 1], [2]] and device.calls[6:] == [2, 1]


def test_one_item_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="too many"):
        list(MemoryBound()(Device(0), range(4)))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        list(MemoryBound()(lambda items: 1 / 0, range(4)))


def test_nothing_to_do_is_nothing():
    assert list(MemoryBound()(pytest.fail, [])) == []
