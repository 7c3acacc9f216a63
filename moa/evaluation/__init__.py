"""Evaluation of a personalization pipeline: identity preservation (IP) and prompt consistency (PC), one row per image.

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR      # check a suite before spending hours on it
    python -m moa.evaluation.run --pipeline DIR --suite datasets/suites/miniature.yaml --shards DIR --out DIR

The steps are files of this package, in the order in which they run: `suite` (what is asked), `subjects` (who), `generate`
(images), `faces` and `clip` (the measuring models), `metrics` (pure functions), `score` (rows), `summary` (tables), `run`.
Formats: datasets/FORMAT.md, sections 6 and 7.
"""
