"""The training loop on a tiny model: exact resume, independence of the ranks, a frozen prior, survived failures.

python -m pytest tests/moa/test_train.py            (-m 'not slow' leaves out the runs under torchrun)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

import moa.train
from moa import checkpoint
from moa.adapter import read_adapter
from moa.batch import TrainingSet, collate
from moa.config import MoAConfig
from moa.data import ShardDataset
from moa.distributed import GradientBuffer, Ranks, StopRequest, ranks
from moa.errors import ConfigChangedError, MissingInputError, NonFiniteError, ShardDataError, TrainConfigError
from moa.models import Models, find_inputs, load_models
from moa.step import training_losses
from moa.train_config import SubjectAugmentation, TrainConfig
from tests.moa.shards import write_shards
from tests.tiny_models import IMAGE_DIM, tiny_base

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
MakeConfig = Callable[..., TrainConfig]


def run(config: TrainConfig, stop: StopRequest | None = None) -> int:
    """Trains in this process."""
    return moa.train.train(config, ALONE, stop or StopRequest())


def metrics(config: TrainConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]


def tensors(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    """Everything in the checkpoint of `step`; copies, as a loaded file is a memory map."""
    folder = config.run_folder / "checkpoints" / f"step-{step:08d}"
    return {f"{f.stem}/{k}": t.clone() for f in sorted(folder.glob("*.safetensors")) for k, t in load_file(f).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def first_batch(models: Models, config: TrainConfig, size: int = 4):
    dataset = ShardDataset(config.shards)
    samples = TrainingSet(dataset, models.tokenizer, models.image_processor, models.latent_shape(32, 32), config)
    return collate([samples[number] for number in range(size)])


# What training does.


def test_a_run_writes_what_the_format_says_and_is_left_alone_afterwards(
    make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=5, log_every=2, checkpoint_every=2, keep=2)
    assert run(config) == 0
    lines = metrics(config)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert all(
        line.keys()
        == {"step", "loss", "loss_masked", "loss_router", "loss_object", "lr", "grad_norm", "seconds"}
        | {"router_background", "router_foreground", "samples_per_second"}
        for line in lines
    )
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert sorted(p.name for p in (config.run_folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line for line in printed if "loss" in line] == lines
    assert [line["event"] for line in printed if "event" in line] == ["start", *["checkpoint"] * 3, "exported"]

    manifest = json.loads((config.run_folder / "export" / "manifest.json").read_text())
    inputs = find_inputs(config)
    assert manifest["inputs"] == {"shards": inputs["shards"], "base": inputs["base"], "init": None}
    assert manifest["step"] == 5
    assert read_adapter(config.run_folder / "export").provenance["seed"] == config.seed

    before = {p: p.stat().st_mtime_ns for p in config.out.rglob("*")}
    assert run(config) == 0
    assert json.loads(capfd.readouterr().out)["event"] == "finished"
    assert {p: p.stat().st_mtime_ns for p in config.out.rglob("*")} == before


def test_loss_falls_and_only_the_personalization_weights_move(make_config: MakeConfig) -> None:
    config = make_config(steps=20, global_batch=8, learning_rate=5e-3, condition_dropout=0.0)
    models = load_models(config, ALONE.device)
    batch = first_batch(models, config, 8)
    before = training_losses(models, batch, config)
    prior = prior_hash(models)
    run(config)
    for name, tensor in load_file(config.run_folder / "checkpoints/step-00000020/weights.safetensors").items():
        parameter = models.unet.get_parameter(name)
        assert not torch.equal(parameter, tensor), name
        parameter.data.copy_(tensor)
    after = training_losses(models, batch, config)
    assert after.masked < 0.9 * before.masked
    assert prior_hash(models) == prior


def prior_hash(models: Models) -> str:
    """Digest of everything that must not move."""
    digest = hashlib.sha256()
    trained = {name for name, _ in models.unet.moa_parameters()}
    for name, tensor in models.unet.state_dict().items():
        if name not in trained:
            digest.update(tensor.numpy().tobytes())
    for model in (models.vae, models.text_encoder, models.image_encoder):
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_prior_is_frozen_in_the_loop_itself(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Models] = []
    load = moa.train.load_models
    monkeypatch.setattr(moa.train, "load_models", lambda *args: seen.append(load(*args)) or seen[0])
    config = make_config(learning_rate=1.0, weight_decay=0.5)
    fresh = prior_hash(load(config, ALONE.device))
    run(config)
    assert prior_hash(seen[0]) == fresh
    trained = {name for name, _ in seen[0].unet.moa_parameters()}
    assert {name for name, p in seen[0].unet.named_parameters() if p.requires_grad} == trained


def test_gradient_buffer_is_where_the_gradients_are() -> None:
    layer, unused = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.ones(5))
    parameters = [*layer.parameters(), unused]
    buffer = GradientBuffer(parameters, extra=2)
    for _ in range(2):
        layer(torch.ones(4, 3)).sum().backward()
    assert buffer.gradients.tolist() == [8.0] * 8 + [0.0] * 5
    assert buffer.clip_(1.0).item() == pytest.approx(8 * math.sqrt(8))
    assert torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in parameters])).item() == pytest.approx(1.0)
    assert buffer.extra.tolist() == [0.0, 0.0]


def test_velocity_targets_follow_the_scheduler(make_config: MakeConfig, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "velocity")
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    totals = []
    for folder in (make_config().base, base):
        config = make_config(base=folder, image_encoder=folder / "image_encoder")
        models = load_models(config, ALONE.device)
        totals.append(training_losses(models, first_batch(models, config), config).masked.item())
    assert isinstance(models.scheduler, DDPMScheduler)
    assert abs(totals[0] - totals[1]) > 1e-3
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "sample"}))
    with pytest.raises(TrainConfigError, match="prediction_type 'sample' is not supported"):
        load_models(config, ALONE.device)


# Options: each changes something.


@pytest.fixture(scope="module")
def two_steps() -> dict[str, dict[str, torch.Tensor]]:
    """Weights after two steps, by run; the unchanged run is computed once."""
    return {}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1e-4},
        {"warmup": 10},
        {"weight_decay": 0.1},
        {"max_grad_norm": 0.01},
        {"lambda_router": 1.0},
        {"lambda_object": 1.0},
        {"condition_dropout": 0.9},
        {"masked_loss_probability": 0.0},
        {"max_timestep": 10},
        {"global_batch": 2},
        {"precision": "bf16"},
        {"augmentation": SubjectAugmentation(flip=1, background=0.5)},
        {"augmentation": SubjectAugmentation(background=1)},
        {"augmentation": SubjectAugmentation(colour=0.5)},
        {"augmentation": SubjectAugmentation(geometry=0.5)},
        {"augmentation": SubjectAugmentation(rotation=45)},
    ],
    ids=str,
)
def test_option_changes_the_weights(
    make_config: MakeConfig, two_steps: dict[str, dict[str, torch.Tensor]], change: dict[str, object]
) -> None:
    if not two_steps:
        reference = make_config(steps=2, out=make_config().out / "reference")
        run(reference)
        two_steps.update(load_file(reference.out / "checkpoints/step-00000002/weights.safetensors"))
    config = make_config(steps=2, **change)
    run(config)
    weights = load_file(config.run_folder / "checkpoints/step-00000002/weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not same(weights, two_steps)


def test_accumulation_gives_the_same_weights_in_smaller_pieces(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    step = moa.train.training_losses
    monkeypatch.setattr(moa.train, "training_losses", lambda m, b, c: sizes.append(len(b.images)) or step(m, b, c))
    weights = []
    for accumulation in (1, 4):
        config = make_config(
            steps=3, accumulation=accumulation, lambda_object=1.0, out=make_config().out / f"{accumulation}"
        )
        run(config)
        weights.append(load_file(config.run_folder / "checkpoints/step-00000003/weights.safetensors"))
    assert sizes == [4] * 3 + [1] * 12
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(make_config: MakeConfig) -> None:
    results = []
    for on in (False, True):
        config = make_config(gradient_checkpointing=on, lambda_router=1.0, lambda_object=1.0)
        models = load_models(config, ALONE.device)
        calls: list[object] = []
        block = models.unet.mid_block.attentions[0].transformer_blocks[0]
        block.register_forward_pre_hook(lambda *args, calls=calls: calls.append(None))
        training_losses(models, first_batch(models, config), config).total.backward()
        results.append((len(calls), {name: p.grad for name, p in models.unet.moa_parameters()}))
    (plain, gradients), (checkpointed, recomputed) = results
    assert (plain, checkpointed) == (1, 2)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-7)


def test_average_is_what_is_exported(make_config: MakeConfig) -> None:
    exports = {}
    for decay in (0.0, 0.9):
        config = make_config(ema_decay=decay, learning_rate=1e-2, out=make_config().out / str(decay))
        run(config)
        saved = tensors(config, 4)
        group = "average" if decay else "weights"
        exports[decay] = read_adapter(config.run_folder / "export").tensors
        for name, tensor in exports[decay].items():
            if f"{group}/{name}" in saved:  # the buffers of an adapter are not trained
                torch.testing.assert_close(tensor, saved[f"{group}/{name}"].half())
    assert not same(exports[0.0], exports[0.9])


def test_warm_start_begins_where_the_adapter_ended(make_config: MakeConfig) -> None:
    first = make_config(learning_rate=1e-2, out=make_config().out / "first")
    run(first)
    config = make_config(init=first.out / "export")
    models = load_models(config, ALONE.device)
    exported = read_adapter(first.out / "export").tensors
    for name, parameter in models.unet.moa_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.detach(), exported[name].float())
    run(config)
    inputs = json.loads((config.run_folder / "export" / "manifest.json").read_text())["inputs"]
    assert inputs["init"] == json.loads((first.out / "export" / "manifest.json").read_text())["digest"]
    with pytest.raises(TrainConfigError, match="holds an adapter of .*'moa'.* asks for .*'single_branch'"):
        load_models(
            make_config(init=first.out / "export", moa=MoAConfig(image_dim=IMAGE_DIM, architecture="single_branch")),
            ALONE.device,
        )


def test_single_branch_trains_without_router(make_config: MakeConfig) -> None:
    config = make_config(moa=MoAConfig(image_dim=IMAGE_DIM, architecture="single_branch"))
    run(config)
    assert all(line["loss_router"] == 0 and line["router_background"] is None for line in metrics(config))
    assert not [name for name in tensors(config, 4) if "router" in name]


def test_dropping_all_conditions_trains_nothing_of_a_mixture(make_config: MakeConfig) -> None:
    """Inactive rows run the prior alone, so without weight decay the weights stay, and nothing fails."""
    config = make_config(condition_dropout=1.0, weight_decay=0.0)
    run(config)
    assert all(line["grad_norm"] == 0 and line["router_background"] is None for line in metrics(config))


def test_threads_and_workers(make_config: MakeConfig) -> None:
    weights = []
    for workers in (0, 2):
        config = make_config(num_workers=workers, num_threads=1, out=make_config().out / str(workers))
        torch.set_num_threads(2)
        run(config)
        assert torch.get_num_threads() == 1
        weights.append(tensors(config, 4))
    assert same(*weights)


# Resume.


def test_n_plus_m_steps_are_n_then_m_steps_bit_for_bit(make_config: MakeConfig) -> None:
    """Weights, moments, average and metrics; checkpoints fall between two metrics lines and between two epochs."""
    options = {"global_batch": 6, "ema_decay": 0.9, "warmup": 5, "log_every": 4, "checkpoint_every": 3}
    whole = make_config(steps=8, out=make_config().out / "whole", **options)
    parts = make_config(steps=3, out=make_config().out / "parts", **options)
    run(whole)
    for steps in (3, 6, 8):
        run(parts.model_copy(update={"steps": steps}))
    assert same(tensors(whole, 8), tensors(parts, 8))
    timing = ("seconds", "samples_per_second")
    lines = [[{k: v for k, v in line.items() if k not in timing} for line in metrics(c)] for c in (whole, parts)]
    # A run that ends logs its last step, so the parts have lines at their ends.
    assert lines[0][0]["step"] == 4 and [line["step"] for line in lines[1]] == [3, 4, 6, 8]
    exports = [read_adapter(config.run_folder / "export").tensors for config in (whole, parts)]
    assert same(*exports)


def test_metrics_after_an_interruption_are_those_of_an_uninterrupted_run(make_config: MakeConfig) -> None:
    options = {"steps": 6, "log_every": 4, "checkpoint_every": 100}
    whole, stopped = (make_config(out=make_config().out / name, **options) for name in ("whole", "stopped"))
    run(whole)
    stop = StopRequest()
    stop.asked = True
    assert run(stopped, stop) == moa.train.EXIT_STOPPED
    assert checkpoint.latest(stopped.out / "checkpoints").step == 1
    assert run(stopped) == 0
    timing = ("seconds", "samples_per_second")
    lines = [[{k: v for k, v in line.items() if k not in timing} for line in metrics(c)] for c in (whole, stopped)]
    assert lines[0] == lines[1]
    assert same(tensors(whole, 6), tensors(stopped, 6))


def test_a_damaged_checkpoint_is_passed_over_and_its_metrics_are_cut(
    make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=6)
    run(config)
    expected = tensors(config, 6)
    weights = config.run_folder / "checkpoints" / "step-00000006" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with open(config.run_folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # a line cut by a crash
    capfd.readouterr()
    run(config)
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [e["event"] for e in events if "event" in e] == ["warning", "resume", "checkpoint", "exported"]
    assert "step-00000006 is damaged: weights.safetensors" in events[0]["message"]
    assert [line["step"] for line in metrics(config)] == [1, 2, 3, 4, 5, 6]
    assert same(tensors(config, 6), expected)


def test_another_configuration_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config())
    with pytest.raises(ConfigChangedError, match="learning_rate: 5e-05 -> 0.001"):
        run(make_config(learning_rate=1e-3, steps=8))
    with pytest.raises(ConfigChangedError, match="inputs.shards"):
        run(make_config(shards=write_shards(tmp_path / "other", samples=6)))
    with pytest.raises(TrainConfigError, match="steps is 3, but .*step-00000004 is beyond it"):
        run(make_config(steps=3))


# Failures.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "nowhere"}, "base: nowhere/unet does not exist"),
        ({"image_encoder": "nowhere"}, "image_encoder: nowhere/config.json does not exist"),
        ({"shards": "nowhere"}, "nowhere/manifest.json does not exist"),
        ({"init": "nowhere"}, "init: nowhere/manifest.json does not exist"),
    ],
)
def test_missing_inputs_are_named_before_any_work(
    make_config: MakeConfig, change: dict[str, str], message: str
) -> None:
    config = make_config(**change)
    with pytest.raises(MissingInputError, match=message):
        run(config)
    assert not config.out.exists()


def test_inputs_that_do_not_fit_are_named(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainConfigError, match=f"moa.image_dim is 7, but .*image_encoder gives {IMAGE_DIM}"):
        run(make_config(moa=MoAConfig(image_dim=7)))
    with pytest.raises(TrainConfigError, match="max_timestep: the base model has only 1000 timesteps"):
        run(make_config(max_timestep=1001))
    with pytest.raises(TrainConfigError, match="images of 20 x 20 pixels do not fit .* multiple of 8"):
        run(make_config(shards=write_shards(tmp_path / "odd", size=20)))


def test_damaged_shards_are_found_before_training_unless_told_not_to_look(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    tar = shards / "shards" / "train-00000.tar"
    tar.write_bytes(tar.read_bytes() + b"\0")
    with pytest.raises(ShardDataError, match="train-00000.tar is not the shard"):
        run(make_config(shards=shards))
    assert run(make_config(shards=shards, verify_shards=False)) == 0


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the loss of these steps (1-based) not a number."""
    calls = 0
    step = moa.train.training_losses

    def poisoned(*args):
        nonlocal calls
        calls += 1
        losses = step(*args)
        if calls in steps:
            object.__setattr__(losses, "total", losses.total * math.nan)
        return losses

    monkeypatch.setattr(moa.train, "training_losses", poisoned)


def test_a_step_that_is_not_finite_is_skipped(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=3, log_every=3, checkpoint_every=1, keep=3)
    poison(monkeypatch, {2})
    run(config)
    assert same(tensors(config, 1), tensors(config, 2))
    assert not same(tensors(config, 2), tensors(config, 3))
    assert all(t.isfinite().all() for t in tensors(config, 3).values())
    assert all(math.isfinite(v) for v in metrics(config)[0].values())
    skipped = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "skipped" in line]
    assert [(event["step"], event["in_a_row"]) for event in skipped] == [(2, 1)]


def test_too_many_of_them_end_the_run_with_the_last_checkpoint_kept(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(steps=20, max_skipped=2)
    poison(monkeypatch, {3, 5, 6, 7})
    with pytest.raises(NonFiniteError, match="3 steps in a row, up to step 7"):
        run(config)
    found = checkpoint.latest(config.run_folder / "checkpoints")
    assert found.step == 6 and found.state["skipped"] == 2
    assert all(t.isfinite().all() for t in tensors(config, 6).values())


def test_the_command_line_tells_errors_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert moa.train.main([str(tmp_path / "config.json")]) == 1
    error = capfd.readouterr().err
    assert error.startswith("rank 0: MissingInputError: ") and error.count("\n") == 1
    assert moa.train.main([]) == 2
    assert moa.train.main(["--help"]) == 0 and "torchrun" in capfd.readouterr().out


# Several processes.


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
POISONED = str(Path(__file__).with_name("poisoned_rank.py"))
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts Python on the configuration in another process; whatever the test left running is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(config: TrainConfig, *program: str) -> subprocess.Popen[str]:
        config.run_folder.mkdir(parents=True, exist_ok=True)
        path = config.run_folder / "config.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, *program, str(path)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        running.append(
            subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()  # ranks die with torchrun
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Reads the output up to a line with `text`."""
    while text not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


@pytest.mark.slow
def test_two_ranks_skip_together_and_train_like_one(
    make_config: MakeConfig, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """poisoned_rank.py poisons step 2 on rank 1 alone."""
    alone, pair = (make_config(steps=4, ema_decay=0.9, out=make_config().out / name) for name in ("alone", "pair"))
    process = launch(pair, *TORCHRUN, POISONED)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines() if line.startswith('{"event"')]
    assert [e["step"] for e in events if e["event"] == "skipped"] == [2]
    poison(monkeypatch, {2})
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, 4).items(), tensors(pair, 4).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-6, msg=name)
    for one, two in zip(metrics(alone), metrics(pair), strict=True):
        assert one["step"] in (1, 3, 4) and one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.slow
def test_sigterm_saves_on_all_ranks_and_one_rank_finishes_the_work(make_config: MakeConfig, launch: Launch) -> None:
    """torchrun passes SIGTERM on to the whole process group of each rank, loader processes included."""
    whole = make_config(steps=100_000, checkpoint_every=100_000, num_workers=1)
    process = launch(whole, *TORCHRUN, "-m", "moa.train")
    wait_for(process, '"step": 5,')
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert '"event": "stopped"' in out, err
    found = checkpoint.latest(whole.run_folder / "checkpoints")
    assert found.step >= 5
    steps = found.step + 2
    assert run(whole.model_copy(update={"steps": steps, "num_workers": 0})) == 0
    alone = make_config(steps=steps, out=make_config().out / "alone")
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, steps).items(), tensors(whole, steps).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_sigterm_to_a_single_process_exits_143(make_config: MakeConfig, launch: Launch) -> None:
    config = make_config(steps=100_000, checkpoint_every=100_000)
    process = launch(config, "-m", "moa.train")
    wait_for(process, '"loss"')
    process.terminate()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "stopped" and checkpoint.latest(config.run_folder / "checkpoints").step == last["step"]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux only")
def test_a_rank_dies_with_its_launcher() -> None:
    rank = "import moa.distributed as d, time; d.die_with_parent(); print('ready', flush=True); time.sleep(600)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert process.stdout.read() == ""  # the pipe closes when its last holder, the rank, is gone


def test_more_ranks_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainConfigError, match="4 ranks on a machine with 2 GPU.*--nproc_per_node 2"), ranks():
        pass


def test_out_of_memory_names_what_to_change(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(moa.train, "training_losses", full)
    config = make_config()
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "config.json").write_text(config.model_dump_json())
    assert moa.train.main([str(config.run_folder / "config.json")]) == 1
    assert "rank 0: out of memory: raise accumulation" in capfd.readouterr().err
