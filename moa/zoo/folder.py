"""The folder of a small model of the zoo that no library knows: `model.safetensors` (fp16) and `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moa.errors import MissingInputError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_model(model: nn.Module, folder: Path | str, **config: Any) -> None:
    """Write the weights as fp16, and `config` with the name of the model's class."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    text = json.dumps({"model": type(model).__name__, **config}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_model(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights as fp32 and the config. Raises MissingInputError naming the file that is not there."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingInputError(
                f"{folder / name} is missing: it is part of the repository's zoo/ folder, which `make zoo` trains again"
            )
    tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    return tensors, json.loads((folder / CONFIG).read_text(encoding="utf-8"))
