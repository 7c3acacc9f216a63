"""Presets: one function per preset returns the whole configuration of a lifecycle. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flows.downloads import CLIP, FACENET, MASK2FORMER, STABLE_DIFFUSION, STABLE_DIFFUSION_ID
from flows.prefect_environment import PROJECT
from flows.settings import (
    AblateSettings,
    EvaluateSettings,
    LaunchSettings,
    LifecycleConfig,
    PreprocessSettings,
    PublishSettings,
    Variant,
    data_root,
    models_root,
)
from flows.zoo import MOA, PHASES, adapter_config
from moa.config import MoAConfig
from moa.train_config import TrainConfig, ValidationSettings

STABLE_DIFFUSION_BASE = {"base_model": "Stable Diffusion 1.5", "base_model_id": STABLE_DIFFUSION_ID}  # on model cards


def miniature() -> LifecycleConfig:
    """The embedded world: minutes on two CPU cores, warm-started from the adapter that ships with the project."""
    shards = data_root() / "miniature"
    zoo = PROJECT / "zoo"
    trained = adapter_config(MOA, PHASES[-1], zoo, shards, zoo / "moa")  # how zoo/moa ended; it is trained on that way
    return LifecycleConfig(
        preset="miniature",
        name="miniature",
        preprocess=PreprocessSettings(dataset=PROJECT / "datasets/miniature.yaml", out=shards),
        train=TrainConfig(
            shards=shards,
            base=zoo / "base",
            image_encoder=zoo / "clip",
            init=zoo / "moa",
            latent_cache=data_root() / "latents",
            moa=MOA,
            steps=100,
            global_batch=8,
            learning_rate=1e-5,
            warmup=10,
            lambda_router=trained.lambda_router,
            lambda_object=trained.lambda_object,
            masked_loss_probability=trained.masked_loss_probability,
            max_timestep=trained.max_timestep,
            checkpoint_every=50,
            log_every=5,
            validation=ValidationSettings(every=50, samples=32),
            num_threads=1,
        ),
        launch=LaunchSettings(processes=2, hours=1),
        publish=PublishSettings(
            endpoint="local",
            repo_id="miniature/moa",
            title="MoA in the miniature world",
            base_model="the miniature world's Stable Diffusion",
            licences="miniature",
        ),
        evaluate=EvaluateSettings(suite=PROJECT / "datasets/suites/miniature.yaml"),
        ablate=AblateSettings(
            variants=(
                Variant(label="without MoA layers", adapter=zoo / "single-branch"),
                Variant(label="without spacetime encoding", adapter=zoo / "no-spacetime"),
            ),
        ),
    )


def ffhq_sd15() -> LifecycleConfig:
    """FFHQ and Stable Diffusion 1.5, with the paper's values (section 4 and its table of hyperparameters): 4 GPUs."""
    shards = data_root() / "ffhq"
    return LifecycleConfig(
        preset="ffhq_sd15",
        name="ffhq-sd15",
        preprocess=PreprocessSettings(
            dataset=PROJECT / "datasets/ffhq.yaml", out=shards, source_root=data_root() / "raw/ffhq", max_bad=0.05
        ),
        train=_on_stable_diffusion(shards, steps=40_000, global_batch=128),
        launch=LaunchSettings(processes=4),
        publish=PublishSettings(
            endpoint="https://huggingface.co",
            repo_id="your-name/moa-sd15-ffhq",
            title="MoA for Stable Diffusion 1.5, trained on FFHQ",
            **STABLE_DIFFUSION_BASE,
            licences="ffhq_sd15",
        ),
        evaluate=_measured_by_published_models(
            "celeba-15", images=data_root() / "celeba-15", segmenter=models_root() / MASK2FORMER
        ),
        ablate=AblateSettings(  # appendix B of the paper
            variants=(
                Variant(label="without MoA layers", overrides=("train.moa.architecture=single_branch",)),
                Variant(label="without spacetime encoding", overrides=("train.moa.spacetime=false",)),
            )
        ),
    )


def photos_sd15() -> LifecycleConfig:
    """Your own portraits and Stable Diffusion 1.5 on one GPU; `preprocess.source_root` names their folder. Start from
    an adapter that has seen more people (`train.init`) where there is one."""
    shards = data_root() / "photos"
    return LifecycleConfig(
        preset="photos_sd15",
        name="photos-sd15",
        preprocess=PreprocessSettings(dataset=PROJECT / "datasets/photos.yaml", out=shards),
        train=_on_stable_diffusion(shards, steps=4_000, global_batch=16),
        launch=LaunchSettings(processes=1),
        publish=PublishSettings(
            endpoint="local",
            repo_id="photos/moa-sd15",
            title="MoA for Stable Diffusion 1.5, trained on photographs of our own",
            **STABLE_DIFFUSION_BASE,
            licences="photos_sd15",
        ),
        evaluate=_measured_by_published_models("photos"),
    )


def _on_stable_diffusion(shards: Path, *, steps: int, global_batch: int) -> TrainConfig:
    """The paper's training; `steps` and `global_batch` follow the size of the data."""
    return TrainConfig(
        shards=shards,
        base=models_root() / STABLE_DIFFUSION,
        image_encoder=models_root() / CLIP,
        latent_cache=data_root() / "latents",
        moa=MoAConfig(image_dim=768),
        steps=steps,
        global_batch=global_batch,
        learning_rate=5e-5,
        lambda_router=1e-4,
        lambda_object=1e-4,
        precision="bf16",
        gradient_checkpointing=True,
        validation=ValidationSettings(every=500, samples=min(256, 8 * global_batch)),  # less than 1 % of the time
        num_workers=4,
    )


def _measured_by_published_models(
    suite: str, images: Path | None = None, segmenter: Path | None = None
) -> EvaluateSettings:
    """A suite judged by FaceNet and CLIP ViT-L/14, as the published protocol is; `segmenter` is what made the training
    data."""
    declaration, models = PROJECT / "datasets/suites" / f"{suite}.yaml", models_root()
    return EvaluateSettings(
        suite=declaration, images=images, segmenter=segmenter, faces=models / FACENET, clip=models / CLIP
    )


PresetName = Literal["miniature", "ffhq_sd15", "photos_sd15"]
PRESETS: dict[str, Callable[[], LifecycleConfig]] = {
    "miniature": miniature,
    "ffhq_sd15": ffhq_sd15,
    "photos_sd15": photos_sd15,
}
