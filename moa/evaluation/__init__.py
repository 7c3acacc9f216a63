"""Evaluation of a personalization pipeline: identity preservation (IP) and prompt consistency (PC), a row per image.

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR     check a suite before spending hours
    python -m moa.evaluation.run --pipeline DIR --suite datasets/suites/miniature.yaml --shards DIR --out DIR

The files of this package, in the order in which they work: `suite` (what is asked), `check` (is it all there),
`subjects` (who), `generate` (images), `faces` and `clip` (measuring models), `metrics` (pure functions), `score`
(rows) with its `journal`, `summary` (tables), and `run`, which calls them. Formats: datasets/FORMAT.md, sections 6
and 7.
"""
