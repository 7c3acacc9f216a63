"""Scoring against FastComposer's own evaluator: the same numbers on the same images and weights, and the time it takes.

    git clone https://github.com/mit-han-lab/fastcomposer    # evaluation code and the 15 photographs
    git clone https://github.com/openai/CLIP                 # what that code imports as `clip`
    python benchmarks/evaluation.py --fastcomposer fastcomposer --clip CLIP [--quick]

prints the figures and writes benchmarks/evaluation.json; without the checkouts it says so and measures nothing.

FastComposer's side is its `evaluation.single_object.single_object_evaluation.main`, run as it stands: what it builds,
calls and how often is its own. Ours is `Scorer`, as `flows.evaluate` runs it. Both get the same pixels and the same
weights: MTCNN's real ones, an InceptionResnetV1 with random ones, a random CLIP of ViT-L/14's size with CLIP's real
vocabulary. The identity network's batch norms take their statistics from the 15 faces; without that its outputs are
nearly the same for everybody, and agreeing on them would say little. Each "generated" image is somebody else's
photograph at 512 px, so similarities of either sign occur.

Times: process CPU seconds on one thread, the two sides taking turns in blocks of 8 images; medians over the blocks,
ratios within a block. "whole" is everything from the files to the scores. What ours does once for a suite (references,
prompts) is counted apart and added for 2,400 images.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import facenet_pytorch
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from moa.evaluation.clip import ClipScorer
from moa.evaluation.clip_towers import TransformersTowers
from moa.evaluation.faces import FacenetFaces, face_crop
from moa.evaluation.generate import Method, image_path
from moa.evaluation.score import Scorer
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.evaluation.suite import Suite, load_suite

CLONE = """    git clone https://github.com/mit-han-lab/fastcomposer
    git clone https://github.com/openai/CLIP
    python benchmarks/evaluation.py --fastcomposer fastcomposer --clip CLIP"""
RESULT = Path(__file__).with_suffix(".json")
SUITE = Path(__file__).resolve().parents[1] / "datasets" / "suites" / "celeba-15.yaml"
METHOD = Method("images", "Photographs of others", "moa", "sha256:none")
PROMPTS = (0, 10)  # places in the protocol's list of 40: a red hat, a painting by Banksy
BLOCK = 8
SUITE_IMAGES, SUITE_REFERENCES, SUITE_TEXTS = 2400, 15, 80
PARTS = ("identity", "clip", "whole")
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
Key = tuple[str, int]  # subject, place of the prompt in PROMPTS


class Clock:
    """CPU seconds by name, and what the timed functions returned."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.returned: dict[str, list[Any]] = defaultdict(list)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            result = function(*args, **options)
            self.seconds[name] += time.process_time() - start
            self.returned[name].append(result)
            return result

        return wrapper


class FastComposer:
    """FastComposer's evaluator, imported from its checkout, with the given weights instead of the downloaded ones."""

    def __init__(self, photographs: Path, embedder: torch.nn.Module, weights: CLIPModel) -> None:
        self.module = importlib.import_module("evaluation.single_object.single_object_evaluation")
        self.clip = importlib.import_module("clip")
        self.photographs = photographs
        self.prompts = {subject: prompts for prompts, subject in self.module.get_combinations("", True, "eval")}
        self.embedder, self.model = embedder, as_openai(weights, self.clip.model)

    def score(self, folder: Path, keys: Sequence[Key]) -> tuple[list[float], list[float], dict[str, float]]:
        """IP and PC of the images in `folder`, one for each key in order, and the seconds by part."""
        clock, module = Clock(), self.module
        jobs = [([self.prompts[subject][PROMPTS[place]]], subject) for subject, place in keys]
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


def random_embedder(people: Sequence[SuiteSubject]) -> torch.nn.Module:
    """InceptionResnetV1 with random weights and the batch-norm statistics of the people's faces."""
    embedder = facenet_pytorch.InceptionResnetV1().eval()
    photographs = [person.photo for person in people]
    found = FacenetFaces(embedder).detect(photographs)
    crops = np.stack([face_crop(photo, faces[0]) for photo, faces in zip(photographs, found, strict=True)])
    for module in embedder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = None  # the statistics of the one batch, not a moving average
    with torch.no_grad():
        embedder(torch.from_numpy(crops))
    return embedder.eval()


def random_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of the size of openai/clip-vit-large-patch14."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": len(tokenizer)}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 14}, projection_dim=768)
    return CLIPModel(config).eval()


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


def write_images(folder: Path, suite: Suite, people: Sequence[SuiteSubject], blocks: Sequence[Sequence[Key]]) -> None:
    """The images in both layouts, pixel for pixel the same: FastComposer's JPEGs by block, our PNGs."""
    size, names = (suite.images.size,) * 2, [person.id for person in people]
    for number, block in enumerate(blocks):
        theirs = folder / f"theirs-{number}"
        theirs.mkdir(parents=True)
        for case, (subject, place) in enumerate(block):
            other = people[(names.index(subject) + 1 + 3 * place) % len(people)].photo
            shaped = ImageOps.pad(other, size, color="grey") if place else ImageOps.fit(other, size)
            jpeg = theirs / f"subject_{case:04d}_prompt_0000_instance_0000.jpg"
            shaped.save(jpeg)
            png = folder / our_path(suite, subject, place)
            png.parent.mkdir(parents=True, exist_ok=True)
            Image.open(jpeg).save(png)


def our_path(suite: Suite, subject: str, place: int) -> str:
    return image_path(METHOD, subject, "", suite.prompts[place].id, suite.seeds[0])


def compare(theirs: FastComposer, scorer: Scorer, blocks: Sequence[Sequence[Key]]) -> dict[str, Any]:
    """Scores all blocks with both, taking turns; the differences of the scores and the times."""
    clock, folder, suite = Clock(), scorer.folder, scorer.suite
    for part, owner, name in (
        ("identity", scorer.faces, "detect"), ("identity", scorer.faces, "embed"),
        ("clip", scorer.clip, "encode_images"), ("texts", scorer.clip, "encode_texts"),
    ):  # fmt: skip
        setattr(owner, name, clock.timed(part, getattr(owner, name)))
    references = clock.timed("references", lambda: scorer.references)()
    seconds: dict[str, list[dict[str, float]]] = {"FastComposer": [], "MoA": []}
    scores: dict[str, list[float]] = {"ip": [], "pc": []}

    def run_theirs(number: int) -> None:
        ip, pc, spent = theirs.score(folder / f"theirs-{number}", blocks[number])
        scores["ip"] += ip
        scores["pc"] += pc
        seconds["FastComposer"].append(spent)

    def run_ours(number: int) -> None:
        clock.seconds.update(dict.fromkeys(PARTS, 0.0))
        paths = [our_path(suite, *key) for key in blocks[number]]
        clock.timed("whole", scorer.measure)(paths)
        seconds["MoA"].append({part: clock.seconds[part] for part in PARTS})

    for number in range(len(blocks)):
        for run in (run_theirs, run_ours) if number % 2 else (run_ours, run_theirs):
            run(number)
    clock.seconds["texts"] = 0.0
    rows = clock.timed("rows", scorer.score)([METHOD])
    keys = [key for block in blocks for key in block]
    once = {
        "reference": clock.seconds["references"] / len(references),
        "prompt": clock.seconds["texts"] / len(clock.returned["texts"][-1]),
        "rows": (clock.seconds["rows"] - clock.seconds["texts"]) / len(keys),
    }
    return {
        "agreement": {
            "photographs": len(references),
            "photographs_with_a_face": sum(reference is not None for reference in references.values()),
            **{name: _agreement(values, rows, suite, keys, name) for name, values in scores.items()},
        },
        **_times(seconds, [len(block) for block in blocks], once),
    }


def _agreement(theirs: list[float], rows: pd.DataFrame, suite: Suite, keys: Sequence[Key], name: str) -> dict[str, Any]:
    ours = rows.set_index(["subject", "prompt_id"])[name]
    values = np.array([ours[subject, suite.prompts[place].id] for subject, place in keys])
    return {
        "images": len(keys),
        "largest_difference": float(f"{np.abs(values - theirs).max():.2g}"),
        "zeros": int((np.array(theirs) == 0).sum()),
        **{key: round(float(f(theirs)), 5) for key, f in (("mean", np.mean), ("std", np.std), ("max", np.max))},
    }


def _times(seconds: dict[str, list[dict[str, float]]], sizes: Sequence[int], once: dict[str, float]) -> dict[str, Any]:
    """Per image: medians over the blocks, and the ratios within blocks; `rows` belongs to our whole."""
    suite_share = (SUITE_REFERENCES * once["reference"] + SUITE_TEXTS * once["prompt"]) / SUITE_IMAGES
    table: dict[str, dict[str, list[float]]] = {
        who: {part: [block[part] / size for block, size in zip(blocks, sizes, strict=True)] for part in PARTS}
        for who, blocks in seconds.items()
    }
    table["MoA"]["whole"] = [value + once["rows"] for value in table["MoA"]["whole"]]
    for who, extra in (("FastComposer", 0.0), ("MoA", suite_share)):
        table[who]["whole of 2,400"] = [value + extra for value in table[who]["whole"]]
    ratios = {
        part: [base / own for base, own in zip(table["FastComposer"][part], table["MoA"][part], strict=True)]
        for part in table["MoA"]
    }
    return {
        "seconds_per_image": {
            who: {part: round(statistics.median(values), 3) for part, values in parts.items()}
            for who, parts in table.items()
        },
        "times_faster": {
            part: {"median": round(statistics.median(v), 2), "low": round(min(v), 2), "high": round(max(v), 2)}
            for part, v in ratios.items()
        },
        "seconds_once": {name: round(value, 4) for name, value in once.items()},
    }


def antialiasing(scorer: Scorer, off: ClipScorer, paths: Sequence[str]) -> dict[str, Any]:
    """What the resize's antialiasing changes for scored images of one prompt: CLIP's input, of 255, and PC."""
    on, images = scorer.clip, [Image.open(scorer.folder / path).convert("RGB") for path in paths]
    scale = 255 * torch.tensor(on.towers.std)[:, None, None]
    inputs = [float(((on._pixels(image) - off._pixels(image)).abs() * scale).mean()) for image in images]
    text = on.encode_texts([scorer.suite.prompts[0].for_word("person")])[0]
    with_it = np.stack([known.clip for known in scorer.measure(paths).values()]) @ text
    change = np.abs(off.encode_images(images) @ text - with_it)
    return {
        "images": len(images),
        "input_of_255": {"mean": round(statistics.mean(inputs), 2), "max": round(max(inputs), 2)},
        "pc": {"mean": float(f"{change.mean():.2g}"), "max": float(f"{change.max():.2g}")},
        "pc_std_over_images": float(f"{with_it.std():.2g}"),
    }


def measure(fastcomposer: Path, openai_clip: Path, quick: bool) -> dict[str, Any]:
    protocol = load_suite(SUITE)
    chosen = tuple(protocol.prompts[place] for place in PROMPTS)
    suite = protocol.model_copy(update={"prompts": chosen, "seeds": (0,)})
    photographs = fastcomposer / "data" / "celeba_test_single"
    people = resolve_subjects(suite, images=photographs)
    sys.path[:0] = [str(fastcomposer), str(openai_clip)]  # first: this file is called evaluation, too
    bpe = importlib.import_module("clip.clip")._tokenizer
    tokenizer = CLIPTokenizer(vocab=bpe.encoder, merges=list(bpe.bpe_ranks), model_max_length=77)
    embedder, weights = random_embedder(people), random_clip(tokenizer)
    theirs = FastComposer(photographs, embedder, weights)
    towers = TransformersTowers(weights, tokenizer, CLIPImageProcessor())
    on, off = (ClipScorer(towers, antialias=choice) for choice in (True, False))
    keys = [(person.id, place) for place in range(len(PROMPTS)) for person in people]
    blocks = [keys[start : start + BLOCK] for start in range(0, len(keys), BLOCK)][: 1 if quick else None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, suite, people, blocks)
        scorer = Scorer(folder, suite, people, FacenetFaces(embedder), on)
        result = compare(theirs, scorer, blocks)
        first = [our_path(suite, *key) for block in blocks for key in block if key[1] == 0]
        result["antialias"] = antialiasing(scorer, off, first)
    same = [
        " ".join(prompt.split()) == ours.for_word(person.word)
        for person in people
        for prompt, ours in zip(theirs.prompts[person.id], protocol.prompts, strict=True)
    ]
    result["agreement"] |= {"prompts": len(same), "prompts_equal": sum(same)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastcomposer", type=Path, metavar="PATH", help="checkout of mit-han-lab/fastcomposer")
    parser.add_argument("--clip", type=Path, metavar="PATH", help="checkout of openai/CLIP")
    parser.add_argument("--quick", action="store_true", help="one block of 8 images; prints, writes nothing")
    options = parser.parse_args()
    if not (options.fastcomposer and options.clip):
        print(f"skipped: needs both checkouts, which are not part of this project:\n\n{CLONE}")
        return
    for path, file in ((options.fastcomposer, "evaluation/clip_eval.py"), (options.clip, "clip/simple_tokenizer.py")):
        if not (path / file).is_file():
            parser.error(f"{path} has no {file}; what it should be:\n\n{CLONE}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {
        "command": "python benchmarks/evaluation.py --fastcomposer PATH --clip PATH",
        "figures": "measured",
        "machine": f"{processor()}, 1 thread",
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        **measure(options.fastcomposer.resolve(), options.clip.resolve(), options.quick),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if not options.quick:
        RESULT.write_text(text + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
