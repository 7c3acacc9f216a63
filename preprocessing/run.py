"""Preprocess a dataset: `preprocess(load_dataset("datasets/miniature.yaml"), Path("data/miniature"))`.

Shard by shard: load (workers) -> caption, find faces, segment (here, on the device) -> bind, cut, encode (workers) ->
write. A shard that is done stays done: the same call after a crash, a kill or a full disk goes on where it stopped and
ends with the same bytes; with nothing to do it says "up to date". manifest.json is written last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from preprocessing.atomic import remove_half_written
from preprocessing.captions import Captioner, load_captioner
from preprocessing.config import DatasetConfig
from preprocessing.disk import ANOTHER, disk_trouble_told
from preprocessing.errors import OutputError, TooManyRejectedError
from preprocessing.faces import FaceFinder, load_face_finder
from preprocessing.finished import dataset_of, find_finished, settle
from preprocessing.frame import Frame, Item, Rejected
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
from preprocessing.segmentation import Segmenter, load_segmenter
from preprocessing.shards import ShardPlan, chunk_items, write_shard
from preprocessing.sources import Source, load_frame, open_source
from preprocessing.workers import Workers, worker_pool

logger = logging.getLogger(__name__)

BATCH = 32  # images in memory at a time, in each stage

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Annotators:
    """The models of a declaration, ready to work."""

    captioner: Captioner
    face_finder: FaceFinder
    segmenter: Segmenter

    @classmethod
    def load(cls, declaration: DatasetConfig, device: str, models: Path) -> Annotators:
        """Load them all before the first image. Raises MissingWeightsError, MissingDependencyError."""
        config = located(declaration, models)
        return cls(
            captioner=load_captioner(config.captions, device),
            face_finder=load_face_finder(config.faces, device),
            segmenter=load_segmenter(config.segmentation, device),
        )

    def annotate(self, loaded: list[Frame | Rejected]) -> list[Annotated | Rejected]:
        """Annotate the frames among `loaded`; what was dropped passes through."""
        frames = [frame for frame in loaded if isinstance(frame, Frame)]
        if not frames:
            return [result for result in loaded if isinstance(result, Rejected)]
        captions = self.captioner.caption(frames)
        faces = self.face_finder.find(frames)
        masks = self.segmenter.segment(frames, faces)
        annotated = iter(
            Annotated(frame=frame, caption=caption, faces=found, masks=people)
            for frame, caption, found, people in zip(frames, captions, faces, masks, strict=True)
        )
        return [result if isinstance(result, Rejected) else next(annotated) for result in loaded]


def preprocess(
    declaration: DatasetConfig,
    out: Path,
    *,
    source_root: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    device: str = "auto",
    models: Path | None = None,
    max_bad: float = 0.5,
    force: bool = False,
) -> Path:
    """Make `out` the dataset that the declaration describes; returns the path of its manifest.

    source_root: overrides the root of a folder source. progress: called with (images done, images, message).
    workers: processes, default one for each CPU; the output does not depend on it. device: `auto`, `cpu`, `cuda:1`.
    models: folder of the annotators' models, default `models_folder()`. max_bad: share of dropped images above which no
    manifest is written; a finished folder with more is refused, too, and stays as it is. force: forget what is there
    and start over.

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
        pending = len(finished) < len(plans)
        annotators = Annotators.load(declaration, device, models or models_folder()) if pending else None
        # Only now is anything removed: where a model is missing, a good dataset stays what it was.
        (out / "manifest.json").unlink(missing_ok=True)
        for folder in (out, out / "shards"):
            remove_half_written(folder)
        settle(out / "shards", finished)
        _make_shards(declaration, source, plans, finished, annotators, out / "shards", report, workers)
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


def _make_shards(
    config: DatasetConfig,
    source: Source,
    plans: list[ShardPlan],
    finished: dict[str, dict[str, Any]],
    annotators: Annotators | None,
    folder: Path,
    report: Progress,
    workers: int | None,
) -> None:
    """Make the planned shards that are not in `finished`, in their order, and add their records to it.

    annotators: None where all are finished.
    """
    pending = [plan for plan in plans if plan.name not in finished]
    total = sum(len(plan.items) for plan in plans)
    to_do = sum(len(plan.items) for plan in pending)
    done = total - to_do
    if done:
        report(done, total, f"{len(finished)} finished shards kept")
    if annotators is None:
        return
    made = {"dataset": config.name, "tools": tool_versions(config)}
    with worker_pool(workers, to_do) as pool:
        for plan in pending:
            results = _results(config, source, annotators, pool, plan.items)
            counted = _counted(results, report, done, total, plan.name)
            finished[plan.name] = write_shard(folder, plan, made, counted)
            done += len(plan.items)


def _results(
    config: DatasetConfig, source: Source, annotators: Annotators, pool: Workers, items: list[Item]
) -> Iterator[list[Sample | Rejected]]:
    """The three stages as one stream of batches; stages overlap because each map is one batch ahead."""
    batches = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
    loaded = pool.map(partial(load_frame, source, config), batches)
    annotated = (annotators.annotate(batch) for batch in loaded)
    yield from pool.map(partial(_build_or_pass, config), annotated)


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
