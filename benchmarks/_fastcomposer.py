"""FastComposer's evaluator (Xiao et al., 2023), imported from its checkout and run as it stands, with given weights
instead of downloaded ones, its parts timed. `benchmarks/evaluation.py` measures ours against it."""

from __future__ import annotations

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import facenet_pytorch
import torch
from torch import Tensor
from transformers import CLIPModel

TO_OPENAI = (  # transformers' names and those of OpenAI's package
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("text_model.final_layer_norm", "ln_final"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("text_projection.weight", "text_projection"),
    ("visual_projection.weight", "visual.proj"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
Key = tuple[str, int]  # subject, place of the prompt in `FastComposer.places`


class Clock:
    """Seconds by name, and what the timed functions returned: CPU time of this process on a CPU, else wall time with
    the device's work done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.returned: dict[str, list[Any]] = defaultdict(list)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            start = self._now()
            result = function(*args, **options)
            self.seconds[name] += self._now() - start
            self.returned[name].append(result)
            return result

        return wrapper

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class FastComposer:
    """Its evaluator. `places`: which of its list of 40 prompts are used. The checkouts of FastComposer and of OpenAI's
    CLIP are on `sys.path`."""

    def __init__(
        self,
        photographs: Path,
        embedder: torch.nn.Module,
        weights: CLIPModel,
        places: Sequence[int],
        device: torch.device,
    ) -> None:
        self.places, self.device = places, device
        self.module = importlib.import_module("evaluation.single_object.single_object_evaluation")
        self.clip = importlib.import_module("clip")
        self.photographs = photographs
        self.prompts = {subject: prompts for prompts, subject in self.module.get_combinations("", True, "eval")}
        self.embedder, self.model = embedder, as_openai(weights, self.clip.model).to(device)
        if device.type == "cuda":
            self.clip.model.convert_weights(self.model)  # as `clip.load` leaves it there

    def score(self, folder: Path, keys: Sequence[Key]) -> tuple[list[float], list[float], dict[str, float]]:
        """IP and PC of the images in `folder`, one for each key in order, and the seconds by part."""
        clock, module = Clock(self.device), self.module
        jobs = [([self.prompts[subject][self.places[place]]], subject) for subject, place in keys]
        evaluator, transform = module.CLIPEvaluator, self.clip.clip._transform
        arguments = [
            "evaluation", "--num_images_per_prompt", "1",
            "--prediction_folder", str(folder), "--reference_folder", str(self.photographs),
        ]  # fmt: skip
        with ExitStack() as replaced:
            for place, name, value in (
                (sys, "argv", arguments),
                (module, "get_combinations", lambda *_, **__: jobs),
                (module, "tqdm", iter),
                (module, "Accelerator", lambda: SimpleNamespace(device=self.device)),
                (module, "compute_average_similarity", clock.timed("identity", module.compute_average_similarity)),
                (evaluator, "txt_to_img_similarity", clock.timed("clip", evaluator.txt_to_img_similarity)),
                (facenet_pytorch, "InceptionResnetV1", lambda pretrained: self.embedder),
                (facenet_pytorch, "MTCNN", clock.timed("loading", facenet_pytorch.MTCNN)),
                (self.clip, "load", lambda name, device: (self.model, transform(self.model.visual.input_resolution))),
            ):
                replaced.enter_context(patch.object(place, name, value))
            clock.timed("whole", module.main)()
        seconds = clock.seconds | {"whole": clock.seconds["whole"] - clock.seconds["loading"]}
        return clock.returned["identity"], [float(pc) for pc in clock.returned["clip"]], dict(seconds)


def as_openai(weights: CLIPModel, module: ModuleType) -> torch.nn.Module:
    """The same weights in the class of OpenAI's package, which keeps queries, keys and values in one matrix."""
    state: dict[str, Tensor] = {}
    for name, value in weights.state_dict().items():
        for old, new in TO_OPENAI:
            name = name.replace(old, new)
        state[name] = value.T if name in ("text_projection", "visual.proj") else value
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace(".q_proj.", f".{x}_proj.")) for x in "qkv"]
        state[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
    text, vision = weights.config.text_config, weights.config.vision_config
    model = module.CLIP(
        weights.config.projection_dim,
        vision.image_size, vision.num_hidden_layers, vision.hidden_size, vision.patch_size,
        text.max_position_embeddings, text.vocab_size, text.hidden_size, text.num_attention_heads,
        text.num_hidden_layers,
    )  # fmt: skip
    model.load_state_dict(state, assign=True)
    return model.eval()
