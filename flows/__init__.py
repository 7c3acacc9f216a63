"""Orchestration, the verbs: preprocess, train, publish, evaluate, gate, ablate, lifecycle. Nobody imports it.

A flow reads like a numbered list; each of its tasks calls one core function of `preprocessing`, `moa` or `reports`. The
cores know nothing of Prefect and run without it.
"""

from flows.prefect_environment import prepare

prepare()
