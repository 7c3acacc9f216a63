"""Trains a Mixture-of-Attention adapter on a folder of shards.

    torchrun --nproc_per_node 2 -m moa.train runs/<name>/config.json      (gloo on CPU, nccl on GPU)
    python -m moa.train runs/<name>/config.json                           (one process)

Writes into the run folder (datasets/FORMAT.md, section 5): metrics.jsonl, checkpoints/, and at the end export/. The
same command again resumes from the newest good checkpoint with the numbers an uninterrupted run would have had, on
any number of ranks that share the folder; a finished run is left alone, and one that another training is at work on is
refused. While it runs, preprocessing does not change its shards. Prints one JSON object per line: metrics lines (they
have "loss"), validation lines ("validation_loss") and events ("event": latents, start, resume, compile, skipped,
warning, checkpoint, stopped, exported, finished). SIGTERM finishes the step, saves and exits with 143; exit 1 is an
error told on standard error.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from diffusers.utils import logging as diffusers_logging
from torch._dynamo.exc import TorchDynamoException
from transformers.utils import logging as transformers_logging

from moa import checkpoint as checkpoints
from moa.adapter import read_adapter, save_adapter
from moa.batch import TrainingSet, batches
from moa.data import ShardDataset, describe, unchanging
from moa.distributed import GradientBuffer, Ranks, StopRequest, ranks
from moa.errors import MoAError, NonFiniteError
from moa.latents import LatentCache, open_latents
from moa.loader import watched_loaders
from moa.models import Models, code_commit, find_inputs, folder_digest, load_models
from moa.run_folder import add_metrics, alone_in, cut_metrics, is_exported, steps_done
from moa.step import training_losses
from moa.train_config import FREE_KEYS, TrainConfig, load_config
from moa.train_state import TrainState, rounded
from moa.validation import Validation, open_held_out

EXIT_STOPPED = 143  # 128 + SIGTERM
SECONDS_BETWEEN_LATENTS = 5.0  # between two lines that say how far the latents are
# What the ranks add up in each step besides gradients and the wish to stop (`StepLosses.statistics`).
STATISTICS = ("loss", "loss_masked", "loss_router", "loss_object", "router_background", "router_foreground", "routed")


@watched_loaders()
def train(config: TrainConfig, here: Ranks, stop: StopRequest) -> int:
    """Runs to the last step, or until `stop` is asked. Returns the exit code: 0, or 143 when stopped.

    Raises `MoAError` subclasses for everything the user can repair: missing inputs, a changed configuration, a run
    folder in use, damaged shards, shards that preprocessing is changing, lost loader processes, too many non-finite
    steps, a full disk.
    """
    config.micro_batch(here.world)
    with unchanging(config.shards, _warn if here.first else lambda _: None):  # by every rank: machines may have copies
        inputs = find_inputs(config)
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        with alone_in(config.run_folder, here, _warn):
            return _train(config, inputs, here, stop)


def _train(config: TrainConfig, inputs: dict[str, str | None], here: Ranks, stop: StopRequest) -> int:
    """`train` in a run folder of its own, with inputs that are there."""
    # How far it is, and the data.
    record = {**config.model_dump(mode="json"), "inputs": inputs}
    folder, metrics = config.run_folder / "checkpoints", config.run_folder / "metrics.jsonl"
    done = here.from_first(steps_done(config, record, _warn) if here.first else 0)
    if here.from_first(int(here.first and is_exported(config, record, done, _warn))):
        _tell(
            here, event="finished", step=config.steps, path=str(config.run_folder / "export"), message="nothing to do"
        )
        return 0
    dataset = ShardDataset(config.shards, config.split, images=config.latent_cache is None)
    held_out = open_held_out(config) if config.validation.every else None
    for shards in filter(None, (dataset, held_out) if config.verify_shards else ()):
        shards.verify(here.rank, here.world)
    here.barrier()

    # The model, as it was after the steps that are done.
    before = started_from(config.init)
    models = load_models(config, here.device)
    latents = None
    if config.latent_cache is not None and not (latents := _latents(config, models, dataset, here, stop)):
        _tell(here, event="stopped", step=done, message="SIGTERM: the same command continues")
        return EXIT_STOPPED
    state = TrainState(models.unet, config)
    if done:
        state.load(checkpoints.at_step(folder, done))
    parameters = list(state.parameters.values())
    here.broadcast_(parameters)
    buffer = GradientBuffer(parameters, extra=len(STATISTICS) + 1)
    height, width = dataset[0].mask.shape
    shape = models.latent_shape(height, width)
    samples = TrainingSet(dataset, models.tokenizer, models.image_processor, shape, config, latents)
    stream = batches(samples, done, here.rank, here.world, pin_memory=here.device.type == "cuda")
    validation = Validation(models, held_out, config, here) if held_out else None
    share = config.micro_batch(here.world) / config.global_batch
    if here.first:
        cut_metrics(metrics, done)
    _tell(here, event="resume" if done else "start", step=done, steps=config.steps, ranks=here.world, inputs=inputs)
    if config.compile:
        _tell(here, event="compile", message="the first step compiles the U-Net: minutes")

    for step in range(done, config.steps):
        # Gradients: every micro-batch adds its share of the global batch's mean.
        buffer.flat.zero_()
        for _ in range(config.accumulation):
            losses = training_losses(models, next(stream).to(here.device), config)
            (losses.total * share).backward()
            buffer.extra[:-1] += losses.statistics(share)
        buffer.extra[-1] = float(stop.asked)

        # Agreement: after this sum all ranks hold the same gradients, the same statistics and the same wish to stop.
        here.sum_(buffer.flat)
        norm = buffer.clip_(config.max_grad_norm)
        *statistics, stopping, grad_norm = torch.cat([buffer.extra, norm[None]]).tolist()

        # Update, or skip: a sample that poisons the loss or gradient of one rank has now poisoned the sum on all.
        learning_rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
        if all(map(math.isfinite, (*statistics, grad_norm))):
            state.update(learning_rate)
            values = dict(zip(STATISTICS, statistics, strict=True))
            state.window.add({**values, "lr": learning_rate, "grad_norm": grad_norm})
        else:
            state.skip()
            _tell(here, event="skipped", step=state.step, in_a_row=state.skipped, message="loss or gradient not finite")
        if state.skipped > config.max_skipped:
            raise NonFiniteError(
                f"{state.skipped} steps in a row, up to step {state.step}, had a loss or gradient that is not finite; "
                f"the checkpoints in {folder} are good: lower learning_rate, use precision fp32, or look at the data"
            )

        # Log, measure, save, stop.
        last = state.step == config.steps
        if here.first and state.window.steps and (state.step % config.log_every == 0 or last):
            _log(metrics, state.window.line(state.step, config.global_batch))
        if validation and validation.is_due(state.step):
            with state.averaged(), state.window.paused():
                errors = validation.measure()
            if here.first:
                _log(metrics, {"step": state.step, **rounded({**errors, "seconds": state.window.seconds})})
        if here.first and (state.step % config.checkpoint_every == 0 or last or stopping):
            counters = {**state.counters(), "config": record}
            path = checkpoints.save(folder, state.step, state.groups(), counters, config.keep, _warn)
            _tell(here, event="checkpoint", step=state.step, path=str(path))
        if stopping:
            here.barrier()  # no rank leaves while the first one writes
            _tell(here, event="stopped", step=state.step, message="SIGTERM: the same command continues")
            return EXIT_STOPPED

    # Export: the trained weights alone, averaged if there is an average.
    if here.first:
        with state.averaged():
            origin = _provenance(config, inputs)
            origin |= {
                "dataset": describe(dataset.manifest),
                "prediction_type": models.scheduler.config.prediction_type,
                "started_from": before,
            }
            path = save_adapter(models.unet, config.run_folder / "export", origin)
        _tell(here, event="exported", step=config.steps, path=str(path))
    here.barrier()
    return 0


def _latents(
    config: TrainConfig, models: Models, dataset: ShardDataset, here: Ranks, stop: StopRequest
) -> LatentCache | None:
    """The images' latents, made now where they are not there; None when stopped before they are."""
    inputs = {"shards": dataset.digest, "vae": folder_digest(config.base, ("vae",))}
    folder, told = config.latent_cache or Path(), LatentsProgress(here)
    latents = open_latents(folder, dataset, models.vae, inputs, here, stop, config.num_workers, told)
    if latents and config.verify_shards:
        latents.verify(here.rank, here.world)
    here.barrier()
    return latents


class LatentsProgress:
    """Prints how far the latents are, every few seconds, and when they are done."""

    def __init__(self, here: Ranks) -> None:
        self._here, self._last = here, -math.inf

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= SECONDS_BETWEEN_LATENTS:
            self._last = now
            _tell(self._here, event="latents", done=done, total=total)


def started_from(init: Path | None) -> dict[str, Any] | None:
    """What an adapter's record keeps of the one its training started from: its digest, its steps, and the names of all
    datasets that it and those before it were trained on, as far as they recorded them. None for a copy of the prior."""
    if init is None:
        return None
    adapter = read_adapter(init)
    own, before = adapter.provenance.get("dataset"), adapter.provenance.get("started_from")
    names = {*([own["name"]] if own else []), *(before["datasets"] if before else [])}
    return {"digest": adapter.digest, "step": adapter.provenance.get("step"), "datasets": sorted(names)}


def _provenance(config: TrainConfig, inputs: dict[str, str | None]) -> dict[str, Any]:
    """What the adapter's manifest and config say about its origin, beside what `_train` knows of data and base."""
    origin = {name: inputs[name] for name in ("shards", "base", "init")}
    return {
        "inputs": origin,
        "image_encoder": inputs["image_encoder"],
        "training": config.model_dump(mode="json", exclude=set(FREE_KEYS)),
        "step": config.steps,
        "seed": config.seed,
        "commit": code_commit(),
    }


def _log(path: Path, line: dict[str, Any]) -> None:
    add_metrics(path, line)
    _print(**line)


def _tell(here: Ranks, **event: Any) -> None:
    if here.first:
        _print(**event)


def _warn(text: str) -> None:
    _print(event="warning", message=text)


def _print(**values: Any) -> None:
    _say(json.dumps(values), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    """A line in one write: `print` makes two where output is not buffered, and ranks share their streams."""
    stream.write(f"{line}\n")
    stream.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if "--help" in arguments or "-h" in arguments else sys.stderr)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a CLIP folder also holds a text model, which is not loaded
    try:
        config = load_config(Path(arguments[0]))
        with StopRequest().listening() as stop, ranks() as here:
            return train(config, here, stop)
    except MoAError as error:
        problem = f"{type(error).__name__}: {error}"
    except torch.OutOfMemoryError as error:
        advice = "raise accumulation, turn on gradient_checkpointing or use bf16; the first two may change on a resume"
        problem = f"out of memory: {advice} ({error})"
    except TorchDynamoException as error:
        advice = "give it a C++ compiler (g++), or set compile to false, which may change on a resume"
        problem = f"the U-Net cannot be compiled on this machine: {advice} ({str(error).strip()})"
    _say(f"rank {os.environ.get('RANK', 0)}: {problem}", sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
