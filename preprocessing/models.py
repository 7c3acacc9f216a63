"""Where the models that annotate pictures lie: nothing here downloads anything. Torch-free.

A declaration names a model as the Hub does, `owner/name`; its files are looked for in `<models>/name`. A path to a
folder means that folder.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from preprocessing.config import Blip2Captions, DatasetConfig, Mask2FormerSegmentation
from preprocessing.errors import MissingWeightsError

MODELS_VARIABLE = "MOA_MODELS_DIR"  # environment variable: the folder of downloaded models
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # configuration, vocabulary, weights: no second format


def models_folder() -> Path:
    """MOA_MODELS_DIR, or `models/` of the project."""
    given = os.environ.get(MODELS_VARIABLE)
    return Path(given).expanduser() if given else Path(__file__).resolve().parent.parent / "models"


def find_model(model: str, models: Path) -> Path:
    """The folder of a model, there or not."""
    named = Path(model).expanduser()
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "/", "~")) and not named.is_dir()
    return models / named.name if is_hub_id else named


def located(config: DatasetConfig, models: Path) -> DatasetConfig:
    """The declaration with each model's folder in place of its name. Raises MissingWeightsError for absent ones."""
    if missing := missing_models(config, models):
        lines = "\n".join(f"{what}\n  {command}" for what, command in missing)
        raise MissingWeightsError(
            f"{config.name}: models are missing. Fetch them, once, on a machine with a network:\n{lines}"
        )
    found = {
        field: part.model_copy(update={"model": str(find_model(part.model, models))})
        for field, part in _with_model(config).items()
    }
    return config.model_copy(update=found)


def missing_models(config: DatasetConfig, models: Path) -> list[tuple[str, str]]:
    """(what is missing, the command that fetches it) for each model of a declaration that is not on this machine."""
    named = {field: part.model for field, part in _with_model(config).items()}
    places = {field: find_model(model, models) for field, model in named.items()}
    return [
        (f"{field}.model: {named[field]} is not in {place}", fetch_command(named[field], place))
        for field, place in places.items()
        if not (place / "config.json").is_file()
    ]


def fetch_command(model: str, place: Path) -> str:
    """How a person puts a model there."""
    patterns = (word for pattern in _FILES for word in ("--include", pattern))
    return shlex.join(["hf", "download", model, *patterns, "--local-dir", str(place)])


def _with_model(config: DatasetConfig) -> dict[str, Blip2Captions | Mask2FormerSegmentation]:
    parts = {"captions": config.captions, "segmentation": config.segmentation}
    return {name: part for name, part in parts.items() if isinstance(part, (Blip2Captions, Mask2FormerSegmentation))}
