"""What the recorder holds, when, and how much of it.    pytest tests/moa/test_recorder.py"""

from __future__ import annotations

import pytest
import torch

from moa.conditioning import MoAInput
from moa.recorder import Recorder
from tests.tiny_models import IMAGE_DIM, LATENT_SIZE, MAX_TOKENS, TEXT_DIM, tiny_moa_unet


def forward(unet, recorder: Recorder, timestep: int = 500, active=(0, 1, 1)) -> None:
    """Three rows: unconditional, one subject, two subjects."""
    generator = torch.Generator().manual_seed(0)
    batch = len(active)
    unet(
        torch.randn(batch, 4, LATENT_SIZE, LATENT_SIZE, generator=generator),
        timestep,
        torch.randn(batch, MAX_TOKENS, TEXT_DIM, generator=generator),
        cross_attention_kwargs={
            "moa": MoAInput(
                torch.randn(batch, 2, IMAGE_DIM, generator=generator),
                torch.tensor([[2, -1], [2, -1], [3, 5]]),
                torch.tensor(active).bool(),
                recorder,
            )
        },
    )


@torch.no_grad()
def test_maps_of_a_forward_pass_have_their_layers_shapes_and_ranges():
    unet, recorder = tiny_moa_unet(), Recorder()
    forward(unet, recorder)
    layers = unet.moa_layers()
    sizes = {"down_blocks.0": 8, "down_blocks.1": 4, "mid_block": 4, "up_blocks.0": 4, "up_blocks.1": 8}
    assert sorted(recorder.router) == [layer.index for layer in layers]
    assert sorted(recorder.attention) == [layer.index for layer in layers if layer.is_cross]
    for layer in layers:
        size = sizes[layer.block]
        router = recorder.router[layer.index]
        assert router.shape == (3, size, size)
        assert (router[0] == 1).all()
        assert router[1:].min() > 0 and router[1:].max() <= 1 and router[1:].std() > 0
        if layer.is_cross:
            maps = recorder.attention[layer.index]
            assert maps.shape == (3, 2, size, size)
            assert not maps[0].any() and not maps[1, 1].any()  # unconditional row, empty slot
            assert maps[2].min() > 0 and maps[2].sum(dim=0).max() <= 1 + 1e-6


@torch.no_grad()
def test_maps_lie_the_right_way_round():
    """A router that looks at one side of the latents shows that side in its map."""
    unet, recorder = tiny_moa_unet(), Recorder()
    first = unet.get_submodule(unet.moa_layers()[0].name)
    seen = []
    first.moa.router.register_forward_hook(lambda _m, _i, shares: seen.append(shares))
    forward(unet, recorder)
    pixels = seen[0][0, :, 0]  # row 1 of the batch is the first active one
    assert torch.equal(recorder.router[0][1], pixels.reshape(8, 8))
    assert torch.equal(recorder.router[0][1][2, 5], pixels[2 * 8 + 5])


@torch.no_grad()
def test_recording_does_not_change_the_output_and_columns_can_be_left_out():
    unet, recorder = tiny_moa_unet(), Recorder(subject_columns=False)
    forward(unet, recorder)
    assert recorder.router and not recorder.attention


@torch.no_grad()
def test_a_new_pass_forgets_the_last_one_and_the_first_map_of_a_pass_stays():
    unet, recorder = tiny_moa_unet(), Recorder()
    forward(unet, recorder, timestep=10)
    early = recorder.attention[1]
    router = recorder.router[1]
    recorder.add_attention(1, torch.zeros_like(early))  # as gradient checkpointing does in the backward pass
    recorder.add_router(1, torch.zeros_like(router))
    assert recorder.attention[1] is early and recorder.router[1] is router
    forward(unet, recorder, timestep=900)
    assert not torch.allclose(recorder.attention[1], early)
    assert recorder.steps == []


@torch.no_grad()
def test_history_keeps_every_step_in_fp16_on_the_cpu_active_rows_only():
    unet, recorder = tiny_moa_unet(), Recorder(history=True)
    for timestep in (900, 500, 100):
        forward(unet, recorder, timestep)
    assert [(step.step, step.timestep) for step in recorder.steps] == [(0, 900.0), (1, 500.0), (2, 100.0)]
    plain = Recorder()
    forward(unet, plain, 500)
    step = recorder.steps[1]
    assert step.router[0].dtype == torch.float16 and step.router[0].shape == (2, 8, 8)
    torch.testing.assert_close(step.router[0].float(), plain.router[0][1:], rtol=0, atol=1e-3)
    torch.testing.assert_close(step.attention[1].float(), plain.attention[1][1:], rtol=0, atol=1e-3)


@torch.no_grad()
def test_history_leaves_out_rows_that_are_mixed_without_a_subject():
    unet, recorder = tiny_moa_unet(), Recorder(history=True)
    features, positions = torch.randn(3, 1, IMAGE_DIM), torch.tensor([[-1], [4], [-1]])
    moa = MoAInput(features, positions, torch.tensor([True, True, False]), recorder)
    unet(torch.randn(3, 4, 8, 8), 500, torch.randn(3, MAX_TOKENS, TEXT_DIM), cross_attention_kwargs={"moa": moa})
    assert recorder.steps[0].router[0].shape[0] == recorder.steps[0].attention[1].shape[0] == 1


@torch.no_grad()
def test_history_stays_within_its_bytes_and_still_covers_the_trajectory():
    unet, recorder = tiny_moa_unet(), Recorder(history=True)
    forward(unet, recorder)
    one = recorder.steps[0].bytes
    recorder = Recorder(history=True, max_bytes=int(3.5 * one))
    for timestep in range(990, 0, -90):  # 11 steps
        forward(unet, recorder, timestep)
    assert sum(step.bytes for step in recorder.steps) <= 3.5 * one
    assert [step.step for step in recorder.steps] == [0, 4, 8]
    assert recorder.stride == 4


@pytest.mark.parametrize(
    ("sizes", "most", "kept", "stride"),
    [
        ([1, 1, 1], 3, [0, 1, 2], 1),  # exactly as much as there may be
        ([1, 1, 1, 1], 3, [0, 2], 2),
        ([1, 1, 1, 1, 3], 4, [0, 4], 4),  # a larger pass: once is not enough
        ([1, 1], 0, [0], 2),  # the first stays, whatever its size
    ],
)
def test_history_is_thinned_by_its_bytes(sizes, most, kept, stride):
    """A row of 4 x 4 pixels has 32 bytes in fp16."""
    recorder = Recorder(history=True, max_bytes=32 * most)
    for number, rows in enumerate(sizes):
        recorder.start()
        recorder.add_router(0, torch.ones(rows, 4, 4, requires_grad=True))
        recorder.finish(900 - number, torch.ones(rows).bool())
    assert [step.step for step in recorder.steps] == kept and recorder.stride == stride
    assert [step.bytes for step in recorder.steps] == [32 * sizes[number] for number in kept]
    assert not any(step.router[0].requires_grad for step in recorder.steps)  # a graph would keep all of the pass


@torch.no_grad()
def test_a_single_branch_has_no_router_to_record():
    unet, recorder = tiny_moa_unet(architecture="single_branch"), Recorder()
    forward(unet, recorder)
    assert not recorder.router
    assert not recorder.attention[1][0].any() and recorder.attention[1][1, 0].all()
