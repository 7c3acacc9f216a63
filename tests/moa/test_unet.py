"""The whole U-Net against a naive reference, and what MoA must not disturb.    pytest tests/moa/test_unet.py"""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from accelerate import cpu_offload, init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from moa.conditioning import MoAContext, MoAInput
from moa.config import MoAConfig
from moa.errors import ConditioningError, UnsupportedBaseError
from moa.expert_cache import ExpertCache
from moa.recorder import Recorder
from moa.unet import MoAUNet2DConditionModel, is_moa_key
from tests.tiny_models import IMAGE_DIM, LATENT_SIZE, MAX_TOKENS, TEXT_DIM, one_level_moa_unet, tiny_moa_unet, tiny_unet

EMPTY = -1
SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}


def inputs(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, one timestep per row, text."""
    latents = torch.randn(batch, 4, LATENT_SIZE, LATENT_SIZE)
    return latents, torch.randint(0, 1000, (batch,)), torch.randn(batch, MAX_TOKENS, TEXT_DIM)


def subjects(active=(0, 0, 1, 1), recorder: Recorder | None = None) -> MoAInput:
    """Two subjects in the last row, one in the others."""
    positions = torch.tensor([[5, EMPTY]] * (len(active) - 1) + [[3, 9]])
    return MoAInput(torch.randn(len(active), 2, IMAGE_DIM), positions, torch.tensor(active).bool(), recorder)


def run(unet: UNet2DConditionModel, given: tuple[Tensor, Tensor, Tensor], moa: MoAInput | None) -> Tensor:
    kwargs = {"cross_attention_kwargs": {"moa": moa}} if moa is not None else {}
    return unet(*given, **kwargs).sample


def reference(unet: MoAUNet2DConditionModel, given: tuple[Tensor, Tensor, Tensor], moa: MoAInput) -> Tensor:
    """Eq. 6-8 the slow way: a stock U-Net whose attention modules are replaced by a closure over plain matrices."""
    base, weights = unet.to_base_unet(), unet.state_dict()
    _, timesteps, text = given
    layers = {layer.name: layer for layer in unet.moa_layers()}

    def attend(name: str, heads: int, z: Tensor, c: Tensor, q: str, k: str, v: str, out: str) -> Tensor:
        split = [
            (x @ weights[f"{name}.{w}.weight"].T).reshape(len(x), -1, heads, z.shape[-1] // heads).transpose(1, 2)
            for x, w in ((z, q), (c, k), (c, v))
        ]
        scores = split[0] @ split[1].transpose(-1, -2) / (z.shape[-1] // heads) ** 0.5
        mixed = (scores.softmax(-1) @ split[2]).transpose(1, 2).reshape(z.shape)
        return mixed @ weights[f"{name}.{out}.weight"].T + weights[f"{name}.{out}.bias"]

    def multimodal_prompt(index: int) -> Tensor:
        prompt = text.clone()
        for row, slot in ((moa.positions >= 0) & moa.active[:, None]).nonzero().tolist():
            position = moa.positions[row, slot]
            where = unet._cross_layers.index(index)
            f, w = moa.features[row, slot].view(1, 1, -1), text[row, position].view(1, 1, -1)
            prompt[row, position] = unet.moa(f, w, timesteps[row : row + 1].to(f.dtype))[where, 0, 0]
        return prompt

    def replaced(name: str, module: torch.nn.Module):
        def forward(hidden_states, encoder_hidden_states=None, **_):
            z, c = hidden_states, hidden_states if encoder_hidden_states is None else encoder_hidden_states
            prior = attend(name, module.heads, z, c, "to_q", "to_k", "to_v", "to_out.0")
            if name not in layers:
                return prior
            c1 = z if encoder_hidden_states is None else multimodal_prompt(layers[name].index)
            branch = f"{name}.moa"
            personal = attend(branch, module.heads, z, c1, "query", "key", "value", "out")
            mixed = personal
            if unet.moa_config.architecture == "moa":
                logits = z @ weights[f"{branch}.router.logits.weight"].T + weights[f"{branch}.router.logits.bias"]
                shares = logits.softmax(-1)
                mixed = shares[..., :1] * prior + shares[..., 1:] * personal
            return torch.where(moa.active[:, None, None], mixed, prior)

        return forward

    for name, module in base.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.forward = replaced(name, module)
    return base(*given).sample


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"architecture": "single_branch"}, {"self_attention": False}], ids=str)
@pytest.mark.parametrize("active", [(0, 0, 1, 1), (1, 0, 0, 1), (1, 1, 1, 1)], ids=str)
def test_the_unet_is_the_slow_reference(config, active):
    unet = tiny_moa_unet(**config).double()
    latents, timesteps, text = inputs()
    given = (latents.double(), timesteps, text.double())
    moa = subjects(active)
    moa = MoAInput(moa.features.double(), moa.positions, moa.active)
    out = run(unet, given, moa)
    torch.testing.assert_close(out, reference(unet, given, moa), rtol=0, atol=1e-9)
    assert (out - run(unet, given, None)).abs().max() > 1e-2


@torch.no_grad()
def test_a_row_may_be_mixed_without_a_subject():
    unet = tiny_moa_unet().double()
    latents, timesteps, text = inputs()
    given, moa = (latents.double(), timesteps, text.double()), subjects()
    nobody = torch.cat([torch.full((2, 2), EMPTY), moa.positions[2:]])  # as under guidance
    moa = MoAInput(moa.features.double(), nobody, torch.tensor([True] * 4))
    out = run(unet, given, moa)
    torch.testing.assert_close(out, reference(unet, given, moa), rtol=0, atol=1e-9)
    assert ((out - run(unet, given, None)).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"architecture": "single_branch"}, {"self_attention": False}], ids=str)
def test_without_subjects_it_is_the_base_bit_for_bit(config):
    base, given = tiny_unet(), inputs()
    unet = tiny_moa_unet(base, **config)
    expected = base(*given).sample
    assert torch.equal(run(unet, given, None), expected)
    assert torch.equal(unet(*given, cross_attention_kwargs={"moa": None}).sample, expected)
    assert torch.equal(unet(*given, cross_attention_kwargs={}).sample, expected)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["moa", "single_branch"])
def test_inactive_rows_are_the_base_bit_for_bit(architecture):
    base, given = tiny_unet(), inputs()
    unet, expected = tiny_moa_unet(base, architecture=architecture), base(*given).sample
    assert torch.equal(run(unet, given, subjects((0, 0, 0, 0))), expected)
    out = run(unet, given, subjects((0, 1, 0, 1)))
    assert torch.equal(out[[0, 2]], expected[[0, 2]])
    assert not torch.allclose(out[[1, 3]], expected[[1, 3]])


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_the_mixture_trains_or_not_as_its_base_did(training):
    unet = MoAUNet2DConditionModel.from_unet(tiny_unet().train(training), MoAConfig(image_dim=IMAGE_DIM))
    assert {module.training for module in unet.modules()} == {training}
    assert {module.training for module in unet.to_base_unet().modules()} == {training}


@pytest.mark.parametrize("architecture", ["moa", "single_branch"])
def test_training_starts_from_the_base_model(architecture):
    base, given = tiny_unet(), inputs()
    unet = MoAUNet2DConditionModel.from_unet(base, MoAConfig(image_dim=IMAGE_DIM, architecture=architecture))
    torch.testing.assert_close(run(unet, given, subjects()), base(*given).sample, rtol=0, atol=1e-3)


@torch.no_grad()
def test_padded_slots_change_nothing_whatever_they_hold():
    unet, given, moa = tiny_moa_unet(), inputs(), subjects()
    garbage = torch.where((moa.positions == EMPTY)[..., None], float("nan"), moa.features)
    assert torch.equal(run(unet, given, moa), run(unet, given, MoAInput(garbage, moa.positions, moa.active)))
    features = torch.cat([moa.features, torch.randn(4, 3, IMAGE_DIM)], dim=1)
    positions = torch.cat([moa.positions, torch.full((4, 3), EMPTY)], dim=1)
    wide = run(unet, given, MoAInput(features, positions, moa.active))
    torch.testing.assert_close(run(unet, given, moa), wide, rtol=0, atol=1e-3)


def test_padded_slots_leave_no_gradient():
    unet, given, moa = tiny_moa_unet(), inputs(), subjects((1, 1, 1, 1))
    garbage = torch.where((moa.positions == EMPTY)[..., None], float("nan"), moa.features).requires_grad_()
    run(unet, given, MoAInput(garbage, moa.positions, moa.active)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for _, p in unet.moa_parameters())
    assert not garbage.grad[moa.positions == EMPTY].any()


@torch.no_grad()
def test_rows_do_not_see_each_other_and_slots_have_no_order():
    unet, (latents, timesteps, text), moa = tiny_moa_unet().double(), inputs(), subjects((1, 1, 1, 1))
    given = (latents.double(), timesteps, text.double())
    out = run(unet, given, moa)
    for row in range(4):
        one = slice(row, row + 1)
        alone = run(
            unet, tuple(x[one] for x in given), MoAInput(moa.features[one], moa.positions[one], moa.active[one])
        )
        torch.testing.assert_close(alone, out[one], rtol=0, atol=1e-9)
    flipped = MoAInput(moa.features.flip(1), moa.positions.flip(1), moa.active)
    torch.testing.assert_close(run(unet, given, flipped), out, rtol=0, atol=1e-9)


@torch.no_grad()
def test_each_subject_and_where_it_is_bound_matter():
    unet, given, moa = tiny_moa_unet(), inputs(), subjects()
    out = run(unet, given, moa)
    for slot in (0, 1):
        features = moa.features.clone()
        features[3, slot] += 1
        assert not torch.allclose(run(unet, given, MoAInput(features, moa.positions, moa.active))[3], out[3])
    swapped = MoAInput(moa.features, moa.positions.flip(1), moa.active)
    assert not torch.allclose(run(unet, given, swapped)[3], out[3])


@torch.no_grad()
@pytest.mark.parametrize("kind", [int, float, torch.tensor], ids=["int", "float", "0-d"])
def test_one_timestep_for_the_whole_batch(kind):
    unet, (latents, _, text), moa = tiny_moa_unet(), inputs(), subjects()
    expected = run(unet, (latents, torch.full((4,), 421), text), moa)
    torch.testing.assert_close(run(unet, (latents, kind(421), text), moa), expected)


@torch.no_grad()
def test_layers_that_are_no_mixture_let_the_subjects_pass_without_a_warning(monkeypatch):
    """diffusers warns of what an attention layer does not know; `torch.compile` breaks its graph there."""
    warnings = []
    monkeypatch.setattr("diffusers.models.attention_processor.logger.warning", warnings.append)
    run(tiny_moa_unet(self_attention=False), inputs(), subjects())
    assert not warnings


@torch.no_grad()
def test_every_option_changes_the_model():
    given, moa, base = inputs(), subjects(), tiny_unet()
    options = [
        {},
        {"architecture": "single_branch"},
        {"router": "mlp"},
        {"spacetime": False},
        {"self_attention": False},
        {"hidden_dim": 7},
        {"fourier_features": 5},
    ]
    outputs = []
    for config in options:
        torch.manual_seed(0)
        outputs.append(run(tiny_moa_unet(base, **config), given, moa))
    for i, first in enumerate(outputs):
        for second in outputs[i + 1 :]:
            assert not torch.allclose(first, second, atol=1e-3)


def gradients(unet: MoAUNet2DConditionModel, given: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    recorder = Recorder()
    loss = run(unet, given, subjects(recorder=recorder)).square().mean()
    maps = [*recorder.router.values(), *recorder.attention.values()]
    (loss + sum(m.square().mean() for m in maps)).backward()
    found = {name: p.grad.clone() for name, p in unet.moa_parameters()}
    unet.zero_grad()
    return found


def test_gradient_checkpointing_gives_the_same_gradients_through_output_and_maps():
    unet, given = tiny_moa_unet().train(), inputs()
    plain = gradients(unet, given)
    unet.enable_gradient_checkpointing()
    recomputed = gradients(unet, given)
    assert all(grad.abs().sum() > 0 for grad in plain.values())
    for name, grad in plain.items():
        torch.testing.assert_close(recomputed[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("active", [(0, 0, 1, 1), (0, 0, 0, 0)], ids=["some", "none"])
def test_a_training_step_moves_moa_and_never_the_prior(active):
    unet, given = tiny_moa_unet(), inputs()
    prior = {name: p for name, p in unet.named_parameters() if not is_moa_key(name)}
    before = digest(prior)
    optimizer = torch.optim.AdamW((p for p in unet.parameters() if p.requires_grad), lr=0.1, weight_decay=0.0)
    run(unet, given, subjects(active)).square().mean().backward()  # also when every row was dropped
    moved = digest(dict(unet.moa_parameters()))
    optimizer.step()
    assert digest(prior) == before
    assert (digest(dict(unet.moa_parameters())) != moved) == any(active)
    assert not any(p.requires_grad for p in prior.values())


def digest(parameters: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for _, p in sorted(parameters.items()))).hexdigest()


@torch.no_grad()
def test_save_and_load_keep_every_weight_and_option(tmp_path):
    base, given, moa = tiny_unet(use_linear_projection=True, norm_eps=1e-4), inputs(), subjects()
    unet = tiny_moa_unet(base, router="mlp", spacetime=False)
    unet.save_pretrained(tmp_path)
    loaded = MoAUNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config.use_linear_projection and loaded.config.norm_eps == 1e-4
    assert loaded.moa_config == unet.moa_config
    assert torch.equal(run(loaded, given, moa), run(unet, given, moa))
    assert [n for n, p in loaded.named_parameters() if p.requires_grad] == [n for n, _ in loaded.moa_parameters()]


def test_a_plain_unet_folder_is_refused_and_nothing_stays_on_meta(tmp_path):
    base = tiny_unet()
    unet = tiny_moa_unet(base)
    assert not any(t.is_meta for t in [*unet.state_dict().values(), *unet.buffers()])
    base.save_pretrained(tmp_path)
    for options in ({}, {"moa_config": {"image_dim": IMAGE_DIM}}):
        for low_memory in (True, False):  # without it the libraries fill what is missing at random
            with pytest.raises(UnsupportedBaseError, match="from_unet"):
                MoAUNet2DConditionModel.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory, **options)


@torch.no_grad()
def test_to_base_unet_gives_the_stock_model_back():
    base, given = tiny_unet(), inputs()
    back = tiny_moa_unet(base).to_base_unet()
    assert type(back) is UNet2DConditionModel
    assert torch.equal(back(*given).sample, base(*given).sample)
    ControlNetModel.from_unet(back)  # strict about its keys


@torch.no_grad()
def test_fused_projections_do_not_stay_in_the_base():
    """diffusers leaves them in the model, also after `unfuse_qkv_projections`."""
    base, given = tiny_unet(), inputs()
    unet, names = tiny_moa_unet(base), base.state_dict().keys()
    expected = base(*given).sample
    for change in (unet.fuse_qkv_projections, unet.unfuse_qkv_projections):
        change()
        back = unet.to_base_unet()
        assert back.state_dict().keys() == names and torch.equal(back(*given).sample, expected)


def test_a_mixture_whose_layers_were_replaced_gives_no_base():
    unet = tiny_moa_unet()
    unet.conv_in = torch.nn.Sequential(unet.conv_in)
    with pytest.raises(UnsupportedBaseError, match=r"2 tensors are gone, e\.g\. conv_in\."):
        unet.to_base_unet()


@torch.no_grad()
def test_lora_layers_land_on_the_prior_only():
    unet = tiny_moa_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    names = [name for name, _ in unet.named_parameters() if "lora_A" in name]
    assert len(names) == 4 * len(unet.moa_layers())
    assert not any(is_moa_key(name) for name in names)
    with pytest.raises(UnsupportedBaseError, match="LoRA layers are loaded into this U-Net"):
        unet.to_base_unet()


def test_a_base_with_lora_layers_in_it_is_refused_and_one_with_merged_layers_is_not():
    """peft renames the base's own weights: they would be lost, and the prior would stay without any."""
    base, given = tiny_unet(), inputs()
    base.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    with pytest.raises(UnsupportedBaseError, match=r"base U-Net.*fuse_lora\(\), then unload_lora_weights"):
        MoAUNet2DConditionModel.from_unet(base, MoAConfig(image_dim=IMAGE_DIM))
    with torch.no_grad():
        expected = base(*given).sample
        base.fuse_lora()
        base.unload_lora()
        merged = tiny_moa_unet(base)
        torch.testing.assert_close(run(merged, given, None), expected, rtol=0, atol=1e-4)


def test_a_base_whose_tensors_have_other_names_is_refused():
    base = tiny_unet()
    base.conv_in = torch.nn.Sequential(base.conv_in)  # as quantizers and peft wrap layers
    with pytest.raises(UnsupportedBaseError, match="conv_in.0.weight.*load it again after MoA is attached"):
        MoAUNet2DConditionModel.from_unet(base, MoAConfig(image_dim=IMAGE_DIM))


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, ExpertCache(3)], ids=["no cache", "cache"])
def test_the_conditional_half_alone_serves_a_pass_without_guidance(cache):
    """What a callback that switches guidance off leaves of the doubled batch."""
    unet, (latents, timesteps, text), moa = tiny_moa_unet(), inputs(), subjects((1, 1, 1, 1))
    positions = torch.cat([torch.full((2, 2), EMPTY), moa.positions[2:]])
    recorder = Recorder(history=True)
    guided = MoAInput(moa.features, positions, moa.active, recorder, cache, guided=True)
    half = MoAInput(moa.features[2:], positions[2:])
    both = run(unet, (latents, timesteps, text), guided)
    alone = run(unet, (latents[2:], timesteps[2:], text[2:]), guided)
    torch.testing.assert_close(alone, both[2:], rtol=0, atol=1e-4)
    assert torch.equal(alone, run(unet, (latents[2:], timesteps[2:], text[2:]), half))
    assert [len(step.router[0]) for step in recorder.steps] == [2, 2]


@torch.no_grad()
@pytest.mark.parametrize("change", ["slicing", "fused", "offloaded"])
def test_what_diffusers_does_to_attention_keeps_moa(change):
    unet, given, moa = tiny_moa_unet(), inputs(), subjects()
    expected = run(unet, given, moa)
    if change == "slicing":
        unet.set_attention_slice("max")
    elif change == "fused":
        unet.fuse_qkv_projections()
    else:
        cpu_offload(unet, execution_device=torch.device("cpu"))
    torch.testing.assert_close(run(unet, given, moa), expected, rtol=0, atol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_torch_compile_finds_no_graph_break_and_compiles_once_for_all_steps():
    unet, counter = one_level_moa_unet(), CompileCounter()
    compiled = torch.compile(unet, fullgraph=True, backend=counter)
    for moa in (subjects(), subjects()):
        for _ in range(2):
            given = inputs()
            torch.testing.assert_close(run(compiled, given, moa), run(unet, given, moa), rtol=0, atol=1e-3)
    assert counter.frame_count == 1


@pytest.mark.slow  # a C++ compiler builds its kernels
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile's own backend needs g++")
@torch.no_grad()
def test_a_compiled_block_is_the_block(tmp_path, monkeypatch):
    """By torch.compile's own backend, for both kinds of mixture layer; the whole U-Net would take minutes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    block = tiny_moa_unet().down_blocks[0].attentions[0].transformer_blocks[0]
    z, text = torch.randn(2, LATENT_SIZE**2, 16), torch.randn(2, MAX_TOKENS, TEXT_DIM)
    prompts = {1: torch.randn(1, MAX_TOKENS, TEXT_DIM)}
    moa = MoAContext(2, slice(1, 2), prompts, torch.tensor([[3]]), (LATENT_SIZE, LATENT_SIZE), None)
    given = {"encoder_hidden_states": text, "cross_attention_kwargs": {"moa": moa}}
    scalar = {"cpp.vec_isa_ok": False}  # it would build and run a program for each vector unit first, 10 s
    compiled = torch.compile(block, fullgraph=True, options=scalar)
    torch.testing.assert_close(compiled(z, **given), block(z, **given), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_full(dtype):
    unet, (latents, timesteps, text), moa = tiny_moa_unet(strength=0.05), inputs(), subjects()
    expected = run(unet, (latents, timesteps, text), moa)
    moa = MoAInput(moa.features.to(dtype), moa.positions, moa.active)
    out = run(unet.to(dtype), (latents.to(dtype), timesteps, text.to(dtype)), moa)
    assert out.dtype == dtype
    assert (out.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


@torch.no_grad()
def test_half_precision_does_not_round_the_time():
    """bf16 has steps of 4 between 512 and 1024."""
    unet, (latents, _, text), told = tiny_moa_unet().to(torch.bfloat16), inputs(), []
    unet.moa.register_forward_pre_hook(lambda _, given: told.append(given[2]))
    moa = MoAInput(torch.randn(4, 1, IMAGE_DIM).bfloat16(), torch.tensor([[5]] * 4))
    run(unet, (latents.bfloat16(), torch.tensor([901, 902, 903, 5]), text.bfloat16()), moa)
    assert told[0].dtype == torch.float32 and told[0].tolist() == [901, 902, 903, 5]


@torch.no_grad()
def test_weights_may_wait_in_a_lower_precision():
    unet, given, moa = tiny_moa_unet(strength=0.05), inputs(), subjects()
    expected = run(unet, given, moa)
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert unet.moa.token.weight.dtype == torch.bfloat16
    assert (run(unet, given, moa) - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_fp32_weights_train_under_bf16_autocast_on_a_bf16_prior():
    unet, given = tiny_moa_unet(), inputs()
    for name, parameter in unet.named_parameters():
        if not is_moa_key(name):
            parameter.data = parameter.data.bfloat16()
    latents, timesteps, text = given
    recorder = Recorder()
    with torch.autocast("cpu", torch.bfloat16):
        out = run(unet, (latents.bfloat16(), timesteps, text.bfloat16()), subjects(recorder=recorder))
    (out.float().square().mean() + sum(m.float().sum() for m in recorder.attention.values())).backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for _, p in unet.moa_parameters())


def test_sd15_geometry():
    """32 attention layers; L of eq. 10 leaves out the first two and the last three transformer blocks; adapter size."""
    with init_empty_weights():
        unet = MoAUNet2DConditionModel.from_unet(UNet2DConditionModel(**SD15), MoAConfig(image_dim=768))
    layers = unet.moa_layers()
    assert len(layers) == 32 and [layer.index for layer in layers] == list(range(32))
    left_out = [layer.name for layer in layers if not layer.in_router_loss]
    assert left_out == [layer.name for layer in layers[:4] + layers[-6:]]
    assert [layer.block for layer in layers][12:14] == ["mid_block", "mid_block"]
    experts = [p for name, p in unet.moa_parameters() if name.split(".")[-2] in ("query", "key", "value", "out")]
    assert round(sum(p.numel() for p in experts) / 1e6, 1) == 93.5
    added = sum(p.numel() for _, p in unet.moa_parameters())
    assert 93.5e6 < added < 97e6


def test_bases_of_another_kind_are_refused():
    config = MoAConfig(image_dim=IMAGE_DIM)
    with init_empty_weights():
        sdxl = UNet2DConditionModel(
            **SD15,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    with pytest.raises(UnsupportedBaseError, match="text_time"):
        MoAUNet2DConditionModel.from_unet(sdxl, config)
    with pytest.raises(UnsupportedBaseError, match="class_embed_type='timestep'"):
        MoAUNet2DConditionModel.from_unet(tiny_unet(class_embed_type="timestep"), config)
    with pytest.raises(UnsupportedBaseError, match="already"):
        MoAUNet2DConditionModel.from_unet(tiny_moa_unet(), config)
    with pytest.raises(UnsupportedBaseError, match="text width"):
        MoAUNet2DConditionModel.from_unet(tiny_unet(cross_attention_dim=(8, 16)), config)
    plain = tiny_unet(
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type="UNetMidBlock2D"
    )
    with pytest.raises(UnsupportedBaseError, match="no transformer block"):
        MoAUNet2DConditionModel.from_unet(plain, config)


def test_inputs_that_do_not_fit_the_model_are_refused():
    unet, given = tiny_moa_unet(), inputs()
    with pytest.raises(ConditioningError, match="doubled batch"):
        run(unet, given, subjects((1, 1)))
    wide = MoAInput(torch.zeros(4, 1, IMAGE_DIM + 1), torch.zeros(4, 1, dtype=torch.long), torch.ones(4).bool())
    with pytest.raises(ConditioningError, match="image encoder"):
        run(unet, given, wide)
    for position in (MAX_TOKENS, MAX_TOKENS + 70):
        beyond = MoAInput(torch.zeros(4, 1, IMAGE_DIM), torch.tensor([[-1], [-1], [3], [position]]))
        with pytest.raises(ConditioningError, match=f"token {position}, but .* 0 to {MAX_TOKENS - 1}: give the index"):
            run(unet, given, beyond)
    run(unet, given, MoAInput(torch.zeros(4, 1, IMAGE_DIM), torch.tensor([[-1], [-1], [3], [MAX_TOKENS - 1]])))
