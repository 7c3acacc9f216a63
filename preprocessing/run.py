"""Preprocess a dataset: `preprocess(load_dataset("datasets/miniature.yaml"), Path("data/miniature"))`.

One stream of batches: load (workers) -> caption, find faces, segment (devices) -> bind, cut, encode (workers) -> write
shard by shard. A shard that is done stays done: the same call after a crash, a kill or a full disk goes on where it
stopped and ends with the same bytes; with nothing to do it says "up to date". manifest.json is written last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from preprocessing.atomic import remove_half_written
from preprocessing.config import DatasetConfig
from preprocessing.crew import Annotate, annotating
from preprocessing.disk import ANOTHER, disk_trouble_told
from preprocessing.errors import OutputError, TooManyRejectedError
from preprocessing.finished import dataset_of, find_finished, settle
from preprocessing.frame import Item, Rejected
from preprocessing.lock import shared
from preprocessing.manifest import (
    inputs_digest,
    is_up_to_date,
    read_manifest,
    read_quality,
    tool_versions,
    write_manifest,
    write_reports,
)
from preprocessing.models import located, models_folder
from preprocessing.samples import Annotated, Sample, build_sample
from preprocessing.shards import ShardPlan, chunk_items, write_shard
from preprocessing.sources import Source, load_frame, open_source
from preprocessing.workers import Workers, worker_pool

logger = logging.getLogger(__name__)

BATCH = 32  # images that go from stage to stage together; two such batches are in each stage at a time, or two a device

Progress = Callable[[int, int, str], None]


def preprocess(
    declaration: DatasetConfig,
    out: Path,
    *,
    source_root: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    models: Path | None = None,
    max_bad: float = 0.5,
    force: bool = False,
) -> Path:
    """Make `out` the dataset that the declaration describes; returns the path of its manifest.

    source_root: overrides the root of a folder source. progress: called with (images done, images, message).
    workers: processes that load and encode, default one for each CPU. devices: for annotators that compute, such as
    `("cuda:0", "cuda:1")`; several share the images, each in a process of its own; default every GPU, else the CPU. The
    output depends neither on the number of workers nor on that of devices of one kind. models: folder of the
    annotators' models, default `models_folder()`. max_bad: share of dropped images above which no manifest is written;
    a finished folder with more is refused, too, and stays as it is. force: forget what is there and start over.

    Raises a PreprocessingError, also when a training or another preprocessing uses `out` and there is something to do
    (preprocessing/lock.py), and for a disk that is full or may not be written (preprocessing/disk.py). Whatever was
    finished by then is kept and used by the next call.
    """
    out, report = Path(out), progress or (lambda done, total, message: None)
    source = open_source(declaration, source_root)
    with disk_trouble_told(out), shared(out) as take_alone:
        manifest = None if force else read_manifest(out)
        if not force:
            _refuse_other(out, manifest, declaration)
        items = source.items(declaration, out / ".inventory.json")
        inputs = inputs_digest(declaration, source.digest(), items)
        if manifest and is_up_to_date(out, manifest, inputs):
            _judge(out, read_quality(out), max_bad)
            report(len(items), len(items), "up to date")
            return out / "manifest.json"
        take_alone()
        plans = _plans(declaration, source, items)
        finished = {} if force else find_finished(out / "shards", plans)
        pending = [plan for plan in plans if plan.name not in finished]
        with _annotating(declaration, devices, models, pending) as annotate:
            # Only now is anything removed: where a model is missing, a good dataset stays what it was.
            (out / "manifest.json").unlink(missing_ok=True)
            for folder in (out, out / "shards"):
                remove_half_written(folder)
            settle(out / "shards", finished)
            _make_shards(declaration, source, plans, finished, annotate, out / "shards", report, workers)
        shards = [finished[plan.name] for plan in plans]
        quality = write_reports(out, shards)
        _judge(out, quality, max_bad)
        return write_manifest(out, declaration, shards, inputs)


def _plans(config: DatasetConfig, source: Source, items: list[Item]) -> list[ShardPlan]:
    """The shards that the items become, in order."""
    drawn_by = source.digest()
    return [
        ShardPlan(name=name, split=split, items=chunk, inputs=inputs_digest(config, drawn_by, chunk))
        for name, split, chunk in chunk_items(items, config.shard_size)
    ]


def _batches(plan: ShardPlan) -> list[list[Item]]:
    """A shard's items in batches of its own, in order: what is in a batch may change a model's last digits."""
    return [plan.items[start : start + BATCH] for start in range(0, len(plan.items), BATCH)]


def _annotating(
    config: DatasetConfig, devices: Sequence[str] | None, models: Path | None, pending: list[ShardPlan]
) -> AbstractContextManager[Annotate | None]:
    """The annotators, loaded, for shards to be made; None without any. Raises what `annotating` and `located` do."""
    if not pending:
        return nullcontext()
    return annotating(located(config, models or models_folder()), devices, sum(len(_batches(plan)) for plan in pending))


def _make_shards(
    config: DatasetConfig,
    source: Source,
    plans: list[ShardPlan],
    finished: dict[str, dict[str, Any]],
    annotate: Annotate | None,
    folder: Path,
    report: Progress,
    workers: int | None,
) -> None:
    """Make the planned shards that are not in `finished`, in their order, and add their records to it.

    annotate: None where all are finished.
    """
    pending = [plan for plan in plans if plan.name not in finished]
    total = sum(len(plan.items) for plan in plans)
    to_do = sum(len(plan.items) for plan in pending)
    done = total - to_do
    if done:
        report(done, total, f"{len(finished)} finished shards kept")
    if annotate is None:
        return
    made = {"dataset": config.name, "tools": tool_versions(config)}
    with worker_pool(workers, to_do) as pool:
        results = _results(config, source, annotate, pool, (batch for plan in pending for batch in _batches(plan)))
        for plan in pending:
            own = islice(results, len(_batches(plan)))
            finished[plan.name] = write_shard(folder, plan, made, _counted(own, report, done, total, plan.name))
            done += len(plan.items)


def _results(
    config: DatasetConfig, source: Source, annotate: Annotate, pool: Workers, batches: Iterable[list[Item]]
) -> Iterator[list[Sample | Rejected]]:
    """The three stages as one stream over all shards; they overlap because each is ahead of the next one."""
    loaded = pool.map(partial(load_frame, source, config), batches)
    return pool.map(partial(_build_or_pass, config), annotate(loaded))


def _build_or_pass(config: DatasetConfig, result: Annotated | Rejected) -> Sample | Rejected:
    return result if isinstance(result, Rejected) else build_sample(config, result)


def _counted(
    batches: Iterator[list[Sample | Rejected]], report: Progress, done: int, total: int, message: str
) -> Iterator[list[Sample | Rejected]]:
    """The same batches; `report` hears of each one that has been written."""
    for batch in batches:
        yield batch
        done += len(batch)
        report(done, total, message)


def _refuse_other(out: Path, manifest: dict[str, Any] | None, config: DatasetConfig) -> None:
    """Raises OutputError for the folder of another dataset, finished or not."""
    name = manifest["dataset"]["name"] if manifest else dataset_of(out / "shards")
    if name not in (None, config.name):
        raise OutputError(f"{out}: holds the dataset {name!r}, not {config.name!r}; {ANOTHER}, or delete this one")


def _judge(out: Path, quality: dict[str, Any], max_bad: float) -> None:
    """Warn of images in both splits. Raises TooManyRejectedError."""
    if leaks := quality["duplicates"]["across_splits"]:
        logger.warning(
            "%s: %d images lie in both splits, byte for byte, so held-out ones are also trained on; see duplicates in "
            "quality.json, and delete the copies",
            *(out, leaks),
        )
    rejected, images = quality["rejected"], quality["images"]
    share = rejected["total"] / images
    if quality["samples"] and share <= max_bad:
        return
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected["by_reason"].items()))
    limit = f"more than the allowed {max_bad:.0%}" if quality["samples"] else "nothing is left"
    raise TooManyRejectedError(
        f"{out}: {rejected['total']} of {images} images were dropped ({share:.0%}, {limit}): {reasons}.\n"
        f"See {out / 'rejected.jsonl'}. Finished shards are kept; run again after mending, or with a higher "
        "--max-bad (in flows: --set preprocess.max_bad=)."
    )
