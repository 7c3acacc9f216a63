"""Train the frozen models of the miniature world from shard folders:

    python -m moa.zoo --scenes data/miniature-zoo --identities data/miniature-identities --out zoo

Writes `<out>/base` (diffusers folder), `<out>/clip` (transformers folder), `<out>/identity`, `<out>/attributes`,
`<out>/community` (a LoRA of the base), each with a `card.json`. A model whose card is there is left alone: delete its
folder to train it again. An interrupted one continues from its state in `<out>/.work`, which is removed when the card
is written. `--start-from` trains the models of an earlier zoo further, on the pictures of a newer world. `make zoo`
runs this and then trains the adapters with `moa.train`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from moa import checkpoint
from moa.data import read_manifest
from moa.errors import MissingInputError
from moa.zoo import base, clip, community, following, train_identity, vae
from moa.zoo.attributes import AttributeClassifier, described_pictures, train_attributes
from moa.zoo.card import read_card, write_card
from moa.zoo.fit import fit_seconds, state_folder
from moa.zoo.hardware import device
from moa.zoo.identity import MiniatureFaces
from moa.zoo.pictures import load_pictures, to_unit

STEPS = {
    "vae": 12000,
    "decoder": 10000,
    "clip": 7000,
    "attributes": 2000,
    "finder": 1000,
    "embedder": 600,
    "base": 25000,
    "community": 300,
}
FURTHER = {"clip": 1000, "base": 5000}  # from an earlier zoo; the shipped models took the steps above in such rounds


@dataclass(frozen=True)
class Job:
    """Where to read and write; `scale` multiplies every number of steps; `start` is an earlier zoo."""

    scenes: Path
    identities: Path
    out: Path
    scale: float
    seed: int
    start: Path | None = None

    @property
    def work(self) -> Path:
        """Where the states of unfinished trainings are kept."""
        return self.out / ".work"

    def steps(self, recipe: str) -> int:
        steps = FURTHER.get(recipe, STEPS[recipe]) if self.start else STEPS[recipe]
        return max(1, round(steps * self.scale))

    def state(self, recipe: str, data: Path) -> Path:
        """The work folder of a recipe, without what other pictures, steps, seed or earlier zoo left in it."""
        made_from = {
            "data": read_manifest(data)["digest"],
            "seed": self.seed,
            "start": str(self.start.resolve()) if self.start else None,
            "steps": self.steps(recipe),
        }
        return state_folder(self.work / recipe, made_from)


def train_clip(job: Job) -> None:
    """zoo/clip"""
    folder = job.out / "clip"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    start = _earlier_clip(job.start / "clip") if job.start else None
    work, steps = job.state("clip", job.scenes), job.steps("clip")
    model, tokenizer = clip.train_clip(train, work, steps=steps, seed=job.seed, start=start)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    clip.image_processor().save_pretrained(folder)
    quality = {"retrieval_top1_of_100": clip.retrieval(model.float(), tokenizer, held_out)}
    _card(job, folder, ["clip"], {"scenes": job.scenes}, quality)


def train_classifiers(job: Job) -> None:
    """zoo/attributes: what a picture shows, to judge the base model."""
    folder = job.out / "attributes"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    work, steps = job.state("attributes", job.scenes), job.steps("attributes")
    classifier = train_attributes(train, work, steps=steps, seed=job.seed)
    classifier.save_pretrained(folder)
    places, described = described_pictures(held_out)
    found = classifier.words(to_unit(held_out.images[places]))
    _card(job, folder, ["attributes"], {"scenes": job.scenes}, following.agreement(found, described))


def train_vae(job: Job) -> None:
    """The autoencoder of zoo/base, of an earlier zoo's only the decoder; kept in the work folder until the base model
    is there."""
    if read_card(job.out / "base") is not None:
        return
    work = job.state("decoder", job.scenes)
    kept, unfinished = work / "model", work / "model.tmp"
    if kept.exists():
        return
    train = load_pictures(job.scenes, "train")
    if job.start:
        autoencoder = AutoencoderKL.from_pretrained(job.start / "base/vae", torch_dtype=torch.float32)
    else:
        first = job.state("vae", job.scenes)
        autoencoder = vae.train_vae(train, first, steps=job.steps("vae"), seed=job.seed)
    steps = job.steps("decoder")
    vae.train_decoder(train, autoencoder, work, steps=steps, seed=job.seed).save_pretrained(unfinished)
    unfinished.replace(kept)


def train_base(job: Job) -> None:
    """zoo/base: a U-Net on the latents of the autoencoder, and the text tower of zoo/clip trained with it; an earlier
    zoo's keeps the latents it knows, and without the recipe "vae" its decoder too."""
    folder = job.out / "base"
    if _finished(folder):
        return
    autoencoder = AutoencoderKL.from_pretrained(_autoencoder(job), torch_dtype=torch.float32)
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    if job.start:
        earlier = StableDiffusionPipeline.from_pretrained(job.start / "base", torch_dtype=torch.float32)
        tokenizer, text_encoder, start = earlier.tokenizer, earlier.text_encoder, earlier.unet
    else:
        tokenizer = CLIPTokenizer.from_pretrained(job.out / "clip")
        text_encoder = CLIPTextModel.from_pretrained(job.out / "clip", dtype=torch.float32)
        start = None
    data = base.encode(train.images, [meta["caption"] for meta in train.meta], autoencoder, tokenizer)
    work, steps = job.state("base", job.scenes), job.steps("base")
    denoiser = base.train_base(data, text_encoder, work, steps=steps, seed=job.seed, start=start)
    pipeline = base.assemble(autoencoder, denoiser.text_encoder, tokenizer, denoiser.unet).to(dtype=torch.float16)
    pipeline.save_pretrained(folder, max_shard_size="4MB")  # files that git carries easily
    quality = {"psnr_db": vae.reconstruction_psnr(autoencoder.float(), held_out)}
    quality |= following.measure(
        pipeline.to(device(), dtype=torch.float32),
        AttributeClassifier.from_pretrained(job.out / "attributes"),
        held_out,
    )
    _card(job, folder, ["vae", "decoder", "base"], {"scenes": job.scenes}, quality)


def _autoencoder(job: Job) -> Path:
    """The folder of the autoencoder that the base model is to have: what `train_vae` kept, or the earlier zoo's as it
    is where `--only base` left that out."""
    kept = job.state("decoder", job.scenes) / "model"
    if kept.exists():
        return kept
    if job.start:
        return job.start / "base" / "vae"
    raise MissingInputError(f"{kept}: no autoencoder for the base model; train it too: --only vae base")


def train_community(job: Job) -> None:
    """zoo/community: another drawing style on the same base, as a LoRA."""
    folder = job.out / "community"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    pipeline = StableDiffusionPipeline.from_pretrained(job.out / "base", torch_dtype=torch.float32)
    work, steps = job.state("community", job.scenes), job.steps("community")
    community.train_community(pipeline, train, folder, work, steps=steps, seed=job.seed)
    quality = community.measure(job.out / "base", folder, held_out)
    _card(job, folder, ["community"], {"scenes": job.scenes}, quality)


def train_faces(job: Job) -> None:
    """zoo/identity"""
    folder = job.out / "identity"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.identities, "train"), load_pictures(job.identities, "heldout")
    faces = MiniatureFaces()
    finder, embedder = (job.state(recipe, job.identities) for recipe in ("finder", "embedder"))
    faces.finder = train_identity.train_finder(train, finder, steps=job.steps("finder"), seed=job.seed)
    faces.embedder = train_identity.train_embedder(train, embedder, steps=job.steps("embedder"), seed=job.seed)
    faces.eval().save_pretrained(folder)
    recall, false = train_identity.finder_recall(faces, held_out)
    auc = train_identity.verification_auc(faces, held_out)
    quality = {"face_recall": recall, "false_faces_per_picture": false, "verification_auc": auc}
    _card(job, folder, ["finder", "embedder"], {"identities": job.identities}, quality)


def _earlier_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return model, CLIPTokenizer.from_pretrained(folder)


def _finished(folder: Path) -> bool:
    card = read_card(folder)
    if card is not None:
        print(f"{folder}: up to date ({card['recipe']}, commit {card['commit']})")
    return card is not None


def _card(job: Job, folder: Path, recipes: list[str], data: dict[str, Path], quality: dict[str, float]) -> None:
    """The card of a model made by one to three fits (those of `recipes` that were run), whose states are then removed:
    a model whose folder is deleted is trained again. The face models are always trained from the start."""
    digests = {name: read_manifest(path)["digest"] for name, path in data.items()}
    trained = [recipe for recipe in recipes if checkpoint.steps(job.work / recipe)]
    continued = job.start is not None and folder.name in ("clip", "base")
    write_card(
        folder,
        recipe=f"moa.zoo {folder.name}",
        seed=job.seed,
        steps={recipe: job.steps(recipe) for recipe in trained},
        seconds=sum(fit_seconds(job.work / recipe) for recipe in trained),
        data=digests,
        quality=quality,
        earlier=read_card(job.start / folder.name) if job.start and continued else None,
    )
    for recipe in recipes:
        shutil.rmtree(job.work / recipe, ignore_errors=True)
    print(f"{folder}: {quality}")


RECIPES = {
    "clip": train_clip,
    "attributes": train_classifiers,
    "vae": train_vae,
    "base": train_base,
    "community": train_community,
    "identity": train_faces,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m moa.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, required=True, help="shards of many pictures")
    parser.add_argument("--identities", type=Path, required=True, help="shards in which every person occurs often")
    parser.add_argument("--out", type=Path, required=True, help="where the zoo goes")
    parser.add_argument("--only", choices=tuple(RECIPES), nargs="+", default=tuple(RECIPES), help="which models")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps (default 1)")
    parser.add_argument("--start-from", type=Path, help="an earlier zoo whose clip and base are trained further")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    job = Job(args.scenes, args.identities, args.out, args.scale, args.seed, args.start_from)
    for name in args.only:
        RECIPES[name](job)


if __name__ == "__main__":
    main()
