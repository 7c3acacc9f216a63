"""The preflight: whatever would otherwise fail after hours, looked at in seconds, with a remedy for each problem.

    python -m flows.lifecycle --preset ffhq_sd15 --dry-run

prints the resolved configuration and the problems, and writes nothing. Every stage begins with the checks that concern
it; the lifecycle with all of them. But for measuring models, which come last, contents are not compared here: digests
are the stages' own affair.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from flows.downloads import command
from flows.errors import BrokenFileError, PreflightError
from flows.hub import HUGGING_FACE_TOKEN, SECRET_BLOCK, hub_token, is_offline
from flows.overrides import field_of
from flows.settings import EvaluateSettings, LifecycleConfig, models_root
from flows.trained import Trained
from moa.config import MoAConfig
from moa.data import file_digest
from moa.errors import LicenceRefusedError, SuiteError
from moa.evaluation.suite import (
    AttributeModel,
    ClipModel,
    FaceModel,
    FolderSubjects,
    ShardSubjects,
    Suite,
    load_suite,
)
from moa.hub.licences import LICENCES, require_acceptance
from moa.hub.loopback import is_loopback
from preprocessing.config import FolderSource, RendererSource, load_dataset
from preprocessing.errors import PreprocessingError
from preprocessing.models import missing_models
from preprocessing.sources import open_source

BASE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")  # of a measuring model that is a folder
PLACEHOLDER = "your-name/"  # of a preset's repository


@dataclass(frozen=True)
class Problem:
    """What is wrong, beginning with the field, and what a person can do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n    {self.remedy}" if self.remedy else self.what


def check(config: LifecycleConfig, stage: str) -> None:
    """Raises PreflightError with all problems of a stage."""
    refuse(find_problems(config, stage), stage)


def refuse(problems: list[Problem], stage: str) -> None:
    """Raises PreflightError where there are any."""
    if problems:
        listed = str(problems[0]) if len(problems) == 1 else "".join(f"\n  * {problem}" for problem in problems)
        raise PreflightError(f"{stage} cannot run yet: {listed}")


def find_problems(config: LifecycleConfig, stage: str) -> list[Problem]:
    """Everything that would stop a stage, or one of those that the lifecycle runs."""
    return [problem for look in CHECKS[stage] for problem in look(config)]


def _images(config: LifecycleConfig) -> Iterator[Problem]:
    """Declaration, pictures and annotators' models."""
    settings = config.preprocess
    try:
        dataset = load_dataset(settings.dataset)
        source = open_source(dataset, settings.source_root)
    except PreprocessingError as error:
        yield Problem(f"preprocess: {error}", "")
        return
    if absent := [path for path in _places(dataset.source, settings.source_root) if not path.exists()]:
        remedy = f"see the head of {settings.dataset}, or --set preprocess.source_root=FOLDER"
        yield from (Problem(f"preprocess.source_root: {path} does not exist", remedy) for path in absent)
    else:
        try:
            source.count(dataset)
        except PreprocessingError as error:
            yield Problem(f"preprocess.source_root: {error}", "--set preprocess.source_root=FOLDER")
    if not (settings.out / "manifest.json").is_file():  # finished shards need no models any more
        yield from (Problem(f"preprocess: {what}", fetch) for what, fetch in missing_models(dataset, models_root()))


def _places(source: RendererSource | FolderSource, source_root: Path | None) -> list[Path]:
    """What has to be there of a folder of photographs."""
    if not isinstance(source, FolderSource):
        return []
    root = Path(source_root or source.root or ".").expanduser()
    return list(dict.fromkeys((root, root / (source.images or ""), root / (source.credits or ""))))


def _training(config: LifecycleConfig) -> Iterator[Problem]:
    """Frozen models, the adapter to start from, and as many GPUs as processes."""
    training = config.train
    if absent := [part for part in BASE_PARTS if not (training.base / part).is_dir()]:
        what = f"train.base: {training.base} is no Stable Diffusion folder: it has no {', '.join(absent)}"
        yield Problem(what, _fetch(training.base, "--set train.base=FOLDER, of diffusers' format"))
    encoder = training.image_encoder / "config.json"
    if not encoder.is_file():
        what = f"train.image_encoder: {training.image_encoder} is no CLIP folder"
        yield Problem(what, _fetch(training.image_encoder, "--set train.image_encoder=FOLDER"))
    elif (width := _read(encoder).get("projection_dim")) not in (None, training.moa.image_dim):
        what = f"train.moa.image_dim is {training.moa.image_dim}, but {training.image_encoder} makes {width} features"
        yield Problem(what, f"--set train.moa.image_dim={width}")
    if training.init is not None:
        yield from _adapter("train.init", training.init, training.moa)
    if config.launch.processes > 1:
        import torch

        if 0 < (gpus := torch.cuda.device_count()) < config.launch.processes:
            what = f"launch.processes: {config.launch.processes} on a machine with {gpus} GPU(s)"
            rate = config.launch.processes * training.accumulation
            yield Problem(
                what, f"--set launch.processes={gpus} --set train.accumulation={max(1, rate // gpus)}: the same steps"
            )


def _adapter(field: str, folder: Path, moa: MoAConfig | None = None) -> Iterator[Problem]:
    """An adapter folder that is not there, or of another architecture than `moa`."""
    if not all((folder / name).is_file() for name in ("manifest.json", "config.json", "moa.safetensors")):
        yield Problem(f"{field}: {folder} holds no adapter", f"--set {field}=runs/<name>/export, or null")
        return
    try:
        found = MoAConfig.model_validate(_read(folder / "config.json").get("moa"))
    except ValidationError:
        yield Problem(f"{field}: {folder / 'config.json'} is no adapter's", "name a folder that `moa.train` wrote")
        return
    if moa not in (None, found):
        yield Problem(f"{field}: {folder} holds an adapter of {found!r}, not {moa!r}", f"--set {field}=null")


def _publishing(config: LifecycleConfig) -> Iterator[Problem]:
    """Repository, terms and token."""
    settings = config.publish
    yield from _inherited_terms(config)
    try:
        require_acceptance(LICENCES[settings.licences], accepted=settings.accept_licences)
    except LicenceRefusedError as error:
        yield Problem(f"publish.{error}", "--set publish.accept_licences=true")
    if settings.endpoint == "local" or is_loopback(settings.endpoint):
        return
    if settings.repo_id.startswith(PLACEHOLDER):
        yield Problem(f"publish.repo_id: {settings.repo_id} is a placeholder", "--set publish.repo_id=OWNER/NAME")
    if is_offline():
        yield Problem(f"HF_HUB_OFFLINE is set, but {settings.endpoint} is to be published to", "unset HF_HUB_OFFLINE")
    if hub_token(config) is None:
        yield Problem(
            f"{HUGGING_FACE_TOKEN} is not set: {settings.endpoint} needs an access token with write permission",
            f"export {HUGGING_FACE_TOKEN}=..., or make a Prefect Secret block named {SECRET_BLOCK}",
        )


def _inherited_terms(config: LifecycleConfig) -> Iterator[Problem]:
    """Data of the adapter that training starts from, or started from: the preset's terms are those of its own."""
    try:
        own = load_dataset(config.preprocess.dataset).name
        trained = Trained.of(config.run / "export") or (config.train.init and Trained.of(config.train.init))
        names = {*trained.other_datasets, (trained.dataset or {"name": own})["name"]} - {own} if trained else set()
    except (PreprocessingError, BrokenFileError):  # told by the checks of pictures and training
        return
    chosen = any(field_of(override) == "publish.licences" for override in config.overrides)
    if names and not chosen:
        yield Problem(
            f"publish.licences: {config.publish.licences} are the terms of the preset, but the adapter that training "
            f"starts from was trained on {', '.join(sorted(names))}, whose terms the model carries, too",
            f"--set publish.licences=KEY, one of {', '.join(LICENCES)}: the terms that cover all of it",
        )


def _evaluation(config: LifecycleConfig) -> Iterator[Problem]:
    """Suite, measuring models, photographs, and the adapters and bases to compare with."""
    settings = config.evaluate
    try:
        suite = load_suite(settings.suite, faces=settings.faces, clip=settings.clip)
    except SuiteError as error:
        yield Problem(f"evaluate.suite: {error}", "--set evaluate.suite=datasets/suites/NAME.yaml")
        return
    for name, model in suite.evaluators:
        if model is not None:
            known = name in EvaluateSettings.model_fields
            yield from _judge(name, model, f"--set evaluate.{name}=PATH" if known else f"see {settings.suite}")
    yield from _photographs(suite, settings.images, settings.segmenter)
    for variant in config.ablate.variants:
        yield from _adapter(f"ablate.variants: {variant.label!r}", variant.adapter) if variant.adapter else ()
    for base in config.ablate.community:
        if not base.lora.exists():
            yield Problem(f"ablate.community: {base.label!r}: {base.lora} does not exist", "name a LoRA file or folder")


def _judge(name: str, model: FaceModel | ClipModel | AttributeModel, setting: str) -> Iterator[Problem]:
    """A measuring model that is not there, or is not the one of the suite: scores of another do not compare."""
    place = Path(model.path)
    files = [place, *(place / weights for weights in WEIGHTS)]
    found = next((file for file in files if file.is_file()), None)
    if not place.exists():
        yield Problem(f"evaluate.{name}: {place} does not exist", _fetch(place, setting))
    elif found and model.sha256 and (digest := file_digest(found)) != model.sha256:
        what = f"evaluate.{name}: {found} is {digest}, but the suite asks for {model.sha256}"
        yield Problem(what, _fetch(place, setting))


def _photographs(suite: Suite, images: Path | None, segmenter: Path | None) -> Iterator[Problem]:
    """People of a folder, and what cuts them out; those of shards are there, cut out, when the shards are."""
    if not isinstance(suite.subjects, FolderSubjects):
        return
    if segmenter and not (segmenter / "config.json").is_file():
        remedy = _fetch(segmenter, "--set evaluate.segmenter=FOLDER, or null: crops unlike those of the training data")
        yield Problem(f"evaluate.segmenter: {segmenter} is no Mask2Former", remedy)
    root = images or (Path(suite.subjects.root) if suite.subjects.root else None)
    if root is None or not root.is_dir():
        yield Problem(
            f"evaluate.images: {root or 'no folder was named'}: the photographs of suite {suite.name} are not there",
            "see datasets/suites/README.md, or --set evaluate.images=FOLDER",
        )
    elif absent := [item.image for item in suite.subjects.items if not (root / item.image).exists()]:
        yield Problem(
            f"evaluate.images: {root} lacks {', '.join(absent)}",
            f"python -m moa.evaluation.suite SUITE --images {shlex.quote(str(root))} looks at each photograph",
        )


def _held_out(config: LifecycleConfig) -> Iterator[Problem]:
    """Too few pictures in the shards for the people whom the suite takes from them; silent while there are no shards.

    Not every picture will do (the suite wants people alone in theirs), so there may be too few all the same.
    """
    counts = _read(config.train.shards / "manifest.json").get("counts")
    splits = counts.get("splits") if isinstance(counts, dict) else None
    try:
        suite = load_suite(config.evaluate.suite, faces=config.evaluate.faces, clip=config.evaluate.clip)
    except SuiteError:  # the evaluation's checks tell it
        return
    wanted = suite.subjects
    if not isinstance(wanted, ShardSubjects) or not isinstance(splits, dict):
        return
    there = splits.get(wanted.split, 0)
    if isinstance(there, int) and there < wanted.count:
        yield Problem(
            f"evaluate.suite: {suite.name} wants {wanted.count} people (subjects.count) of split {wanted.split!r}, but "
            f"{config.train.shards} holds {there} picture(s) of it: the evaluation would fail after the training",
            "preprocess more images, or --set evaluate.suite=FILE, a copy of the suite with a lower subjects.count",
        )


def _fetch(place: Path, otherwise: str) -> str:
    known = command(place)
    return f"{known}\n    or {otherwise}" if known else otherwise


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


CHECKS: dict[str, tuple[Callable[[LifecycleConfig], Iterator[Problem]], ...]] = {
    "preprocess": (_images,),
    "train": (_training, _held_out),
    "publish": (_publishing,),
    "evaluate": (_evaluation,),
    "gate": (_publishing,),
    "rollback": (_publishing,),
    "ablate": (_training, _held_out, _evaluation),
    "lifecycle": (_images, _training, _publishing, _evaluation),  # what is held out is known after preprocessing
}
