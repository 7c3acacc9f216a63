"""What the scores of an evaluation depend on besides its model: only runs that share all of it compare.

The same rule as `python -m moa.evaluation.compare`'s, which says of two evaluations what differs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from reports.run_folder import Evaluation

Item = TypeVar("Item")

EVALUATORS = ("faces", "clip", "attributes")


def yardstick(evaluation: Evaluation) -> str | None:
    """Suite, version, people, evaluators and sampling (without the precision) as one text, the same for two evaluations
    whose scores compare. None where nobody can say: without suite.json, or while the suite is evaluated again."""
    suite, summary = evaluation.suite, evaluation.summary
    if suite is None or evaluation.caution:
        return None
    return json.dumps(
        {
            "suite": [summary.suite, str(summary.version)],
            "people": [person.model_dump() for person in suite.people],
            "evaluators": {name: summary.provenance.evaluators.get(name) for name in EVALUATORS},
            "images": {name: value for name, value in suite.images.items() if name != "precision"},
            "expert_interval": summary.environment.expert_interval,
        },
        sort_keys=True,
    )


def largest_group(items: Sequence[Item], sticks: Sequence[str | None]) -> list[Item]:
    """The items of the commonest yardstick, of equally common ones that of the first; `sticks` are parallel to `items`,
    and None is nobody's."""
    known = [stick for stick in sticks if stick is not None]
    commonest = max(known, key=known.count, default=None)
    return [item for item, stick in zip(items, sticks, strict=True) if stick is not None and stick == commonest]
