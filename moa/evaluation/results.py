"""What a scored evaluation leaves in its folder: the tables, their summary and, last, the manifest (datasets/FORMAT.md,
section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from moa.evaluation.files import write_json
from moa.evaluation.generate import Method
from moa.evaluation.manifest import resolved, write_manifest
from moa.evaluation.pairs import score_pairs
from moa.evaluation.score import Scorer
from moa.evaluation.score_tables import PAIRS, SCORES, SWAPS
from moa.evaluation.subjects import upper_bound
from moa.evaluation.summary import summarise
from moa.evaluation.yardstick import yardstick_digest
from moa.pipeline import EXPERT_INTERVAL


def write_results(
    scorer: Scorer,
    methods: Sequence[Method],
    rows: pd.DataFrame,
    router: dict[str, Any] | None,
    provenance: dict[str, Any],
    environment: dict[str, Any],
    inputs: str,
    files: list[Path],
) -> Path:
    """Writes the tables, their summary and the manifest, whose path it returns.

    `rows` are the scorer's, `router` is the content of router.json, `provenance` and `environment` are parts of the
    summary, `inputs` is `inputs_digest`'s, and `files` are those of the folder that were written before.
    """
    out, suite, subjects = scorer.measurer.folder, scorer.suite, scorer.subjects
    swaps, pairs = scorer.swaps(methods), score_pairs(scorer, methods)
    evaluators, preparer = provenance["evaluators"], provenance["preparer"]
    summary = summarise(
        rows,
        suite,
        methods,
        provenance,
        subjects=subjects,
        swaps=swaps,
        pairs=pairs,
        router=router,
        upper_bound=upper_bound(subjects, scorer.references, scorer.measurer.models.faces),
        environment=environment,
        yardstick=yardstick_digest(resolved(suite, subjects), evaluators, preparer, EXPERT_INTERVAL),
    )
    tables = [(SCORES, rows), (SWAPS, swaps), *([(PAIRS, pairs)] if pairs is not None else [])]
    for table, found in tables:
        table.write(out, found)
    sprites = [out / "router.json", *(out / example["sprite"] for example in router["examples"])] if router else []
    written = [*files, *sprites, write_json(out / "summary.json", summary)]
    return write_manifest(out, suite, methods, inputs, [found for _, found in tables], written)
