"""Train the frozen models of the miniature world from shard folders:

    python -m moa.zoo --scenes data/miniature-zoo --identities data/miniature-identities --out zoo --work runs/zoo

Writes `<out>/base` (diffusers folder), `<out>/clip` (transformers folder), `<out>/identity`, each with a `card.json`.
A model whose card is there is
not trained again; an interrupted one continues from `<work>`. `make zoo` runs this and then trains the adapters with
`moa.train`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from moa.data import read_manifest
from moa.zoo import base, clip, train_identity, vae
from moa.zoo.card import read_card, write_card
from moa.zoo.identity import MiniatureFaces
from moa.zoo.pictures import Pictures, load_pictures

STEPS = {"vae": 6600, "clip": 1400, "finder": 1000, "embedder": 600, "base": 3000}


@dataclass(frozen=True)
class Job:
    """Where to read, write and keep the state; `scale` multiplies every number of steps."""

    scenes: Path
    identities: Path
    out: Path
    work: Path
    scale: float
    seed: int

    def steps(self, recipe: str) -> int:
        return max(1, round(STEPS[recipe] * self.scale))


def train_clip(job: Job) -> None:
    """zoo/clip"""
    folder = job.out / "clip"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    model, tokenizer = clip.train_clip(train, job.work / "clip", steps=job.steps("clip"), seed=job.seed)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    clip.image_processor().save_pretrained(folder)
    quality = {"retrieval_top1_of_100": clip.retrieval(model.float(), tokenizer, held_out)}
    _card(job, folder, "clip", {"scenes": job.scenes}, quality)


def train_base(job: Job) -> None:
    """zoo/base: autoencoder first, then the U-Net on its latents and the text tower of zoo/clip."""
    folder = job.out / "base"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.scenes, "train"), load_pictures(job.scenes, "heldout")
    autoencoder = _autoencoder(job, train)
    tokenizer = CLIPTokenizer.from_pretrained(job.out / "clip")
    text_encoder = CLIPTextModel.from_pretrained(job.out / "clip", dtype=torch.float32)
    data = base.encode(train, autoencoder, tokenizer)
    unet = base.train_base(data, text_encoder, job.work / "base", steps=job.steps("base"), seed=job.seed)
    pipeline = base.assemble(autoencoder, text_encoder, tokenizer, unet).to(dtype=torch.float16)
    pipeline.save_pretrained(folder, max_shard_size="4MB")  # files that git carries easily
    quality = {"psnr_db": vae.reconstruction_psnr(autoencoder.float(), held_out)}
    _card(job, folder, "base", {"scenes": job.scenes}, quality)


def train_faces(job: Job) -> None:
    """zoo/identity"""
    folder = job.out / "identity"
    if _finished(folder):
        return
    train, held_out = load_pictures(job.identities, "train"), load_pictures(job.identities, "heldout")
    faces = MiniatureFaces()
    faces.finder = train_identity.train_finder(train, job.work / "finder", steps=job.steps("finder"), seed=job.seed)
    faces.embedder = train_identity.train_embedder(
        train, job.work / "embedder", steps=job.steps("embedder"), seed=job.seed
    )
    faces.eval().save_pretrained(folder)
    recall, false = train_identity.finder_recall(faces, held_out)
    auc = train_identity.verification_auc(faces, held_out)
    quality = {"face_recall": recall, "false_faces_per_picture": false, "verification_auc": auc}
    _card(job, folder, "finder", {"identities": job.identities}, quality)


def _autoencoder(job: Job, train: Pictures) -> AutoencoderKL:
    """The trained autoencoder, kept in the work folder because the base model needs it whole."""
    kept = job.work / "vae" / "model"
    if not kept.exists():
        vae.train_vae(train, job.work / "vae", steps=job.steps("vae"), seed=job.seed).save_pretrained(kept)
    return AutoencoderKL.from_pretrained(kept)


def _finished(folder: Path) -> bool:
    card = read_card(folder)
    if card is not None:
        print(f"{folder}: up to date ({card['recipe']}, commit {card['commit']})")
    return card is not None


def _card(job: Job, folder: Path, recipe: str, data: dict[str, Path], quality: dict[str, float]) -> None:
    digests = {name: read_manifest(path)["digest"] for name, path in data.items()}
    write_card(
        folder, recipe=f"moa.zoo.{recipe}", seed=job.seed, steps=job.steps(recipe), data=digests, quality=quality
    )
    print(f"{folder}: {quality}")


RECIPES = {"clip": train_clip, "base": train_base, "identity": train_faces}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="shards of many pictures")
    parser.add_argument("--identities", type=Path, required=True, help="shards in which every person occurs often")
    parser.add_argument("--out", type=Path, required=True, help="where the zoo goes")
    parser.add_argument("--work", type=Path, required=True, help="where the training state is kept")
    parser.add_argument("--only", choices=tuple(RECIPES), nargs="+", default=tuple(RECIPES), help="which models")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    job = Job(args.scenes, args.identities, args.out, args.work, args.scale, args.seed)
    for name in args.only:
        RECIPES[name](job)


if __name__ == "__main__":
    main()
