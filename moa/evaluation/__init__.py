"""Evaluation of a personalization pipeline: are people recognised (IP), prompts followed (PC), scenes left alone?

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR     check a suite before spending hours
    python -m moa.evaluation.run --pipeline DIR --suite datasets/suites/miniature.yaml --shards DIR --out DIR
    python -m moa.evaluation.compare DIR DIR                                       two finished evaluations, paired

In the order in which they work: `suite` (what is asked), `check` (is it all there), `subjects` (who, and in which
pairs), `methods` (which weights), `generate` (images) with its `workers` and their `memory`; `faces`, `clip` and
`attributes` (measuring models, from `weights`, on `pixels`), `measure` (what they see) with its `journal`; `metrics`
and `context` (numbers of one image, and of several), `score` and `pairs` (rows of the `score_tables`), `router` (maps);
`intervals`, `tables`, `evidence` and `claims` under `summary` (what the rows say), `environment` (where it ran),
`manifest` (when it is done), and `run`, which calls them. Formats: datasets/FORMAT.md, sections 6 and 7.
"""
