"""Which runs compare: the largest group whose evaluations have one yardstick (`yardstick` of summary.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from reports.run_folder import Evaluation

Item = TypeVar("Item")


def yardstick(evaluation: Evaluation) -> str | None:
    """The same for two evaluations whose scores compare. None where nobody can say: in a summary that was written
    before there was one, or while the suite is evaluated again."""
    return None if evaluation.caution else evaluation.summary.yardstick


def largest_group(items: Sequence[Item], sticks: Sequence[str | None]) -> list[Item]:
    """The items of the commonest yardstick, of equally common ones that of the first; `sticks` are parallel to `items`,
    and None is nobody's."""
    known = Counter(stick for stick in sticks if stick is not None).most_common(1)
    return [item for item, stick in zip(items, sticks, strict=True) if known and stick == known[0][0]]
