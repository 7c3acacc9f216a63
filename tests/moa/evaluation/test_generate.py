"""Generation: the same noise for all methods and people, one prior image for a word, two people, resume by digest."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from moa.errors import EvaluationError, SuiteError
from moa.evaluation.generate import Method, generate, noise_seed, read_chunk, shots
from moa.evaluation.methods import open_pipeline
from moa.evaluation.subjects import SuiteSubject
from moa.pipeline import EXPERT_INTERVAL
from tests.moa.evaluation.fakes import tiny_suite

PRIOR = Method("prior", "Prior only", "prior", "sha256:base")
MOA = Method("moa", "MoA", "moa", "sha256:moa", compared_with="prior")
PAIRS = {"count": 1, "prompts": [{"id": "park", "text": "a {first} and a {second} in the park"}], "seeds": [0, 1]}


class Activations:
    """Stands for what a call of a pipeline keeps in memory."""


class NoiseSampler:
    """Paints the noise it is given; runs out of memory above `most` images."""

    def __init__(self, most: int = 100):
        self.calls, self.most, self.held, self.failed = [], most, [], 0

    def __call__(self, prompt, **options):
        assert not any(activations() for activations in self.held)  # the failed call's memory has been given back
        if len(prompt) > self.most:
            activations = Activations()
            self.held.append(weakref.ref(activations))
            self.failed += 1
            raise torch.OutOfMemoryError("too many")
        self.calls.append({"prompt": prompt, **options})
        size = (options["height"], options["width"], 3)
        noise = [torch.randint(256, size, generator=generator) for generator in options["generator"]]
        return SimpleNamespace(images=[Image.fromarray(n.numpy().astype(np.uint8)) for n in noise])


def _noise(method, device):
    return NoiseSampler()


def _pixels(folder, path):
    return np.asarray(Image.open(folder / path))


def test_paths_name_method_subject_prompt_and_seed(people):
    paths = [shot.path for shot in shots(tiny_suite(), people, MOA)]
    assert len(paths) == len(set(paths)) == 8 and paths[0] == "images/moa/man-0/hat/0.png"


def test_the_prior_is_made_once_for_a_class_word(people):
    twins = [people[0], replace(people[1], word="man")]
    prior = shots(tiny_suite(), twins, PRIOR)
    assert [shot.path for shot in prior][:2] == ["images/prior/man/hat/0.png", "images/prior/man/hat/1.png"]
    assert len(prior) == 4 and len(shots(tiny_suite(), people, PRIOR)) == 8
    assert not any(shot.people for shot in prior)


def test_class_words_that_look_alike_as_file_names_have_images_of_their_own(people):
    words = ["baby boy", "baby-boy", "мать", "отец"]
    found = shots(tiny_suite(seeds=[0]), [replace(people[0], word=word) for word in words], PRIOR)
    assert len(found) == 8 and {shot.text for shot in found if shot.prompt_id == "hat"} == {
        f"a {word} with a hat" for word in words
    }
    assert [shot.path for shot in found if "baby-boy/" in shot.path] == [
        "images/prior/baby-boy/hat/0.png",
        "images/prior/baby-boy/beach/0.png",
    ]


def test_noise_belongs_to_prompt_and_seed(people, tmp_path):
    assert generate(tmp_path, tiny_suite(), people, [PRIOR, MOA], _noise) == 16
    one = _pixels(tmp_path, "images/moa/man-0/hat/0.png")
    assert np.array_equal(one, _pixels(tmp_path, "images/moa/boy-2/hat/0.png"))
    assert np.array_equal(one, _pixels(tmp_path, "images/prior/man/hat/0.png"))
    assert not np.array_equal(one, _pixels(tmp_path, "images/moa/man-0/hat/1.png"))
    assert not np.array_equal(one, _pixels(tmp_path, "images/moa/man-0/beach/0.png"))
    chunk = read_chunk(tmp_path / "images/moa/man-0/hat/0.png")
    assert chunk["noise_seed"] == noise_seed("hat", 0) and chunk["prompt"] == "a man with a hat"


def test_a_second_run_makes_what_is_missing_damaged_or_stale(people, tmp_path):
    suite, loaded = tiny_suite(), []

    def run(suite=suite, method=MOA):
        return generate(tmp_path, suite, people, [method], lambda *given: loaded.append(given) or NoiseSampler())

    assert run() == 8
    assert (run(), loaded) == (0, [(MOA, "cpu")])  # not even the pipeline is loaded
    (tmp_path / "images/moa/man-0/hat/0.png").unlink()
    damaged = tmp_path / "images/moa/man-0/hat/1.png"
    damaged.write_bytes(damaged.read_bytes()[:-400])
    assert run() == 2
    assert run(method=replace(MOA, digest="sha256:other")) == 8
    assert run(tiny_suite(images={"size": 32, "steps": 3, "guidance": 2.0}), replace(MOA, digest="sha256:other")) == 8
    assert not list(tmp_path.rglob(".*"))


def test_an_interrupted_run_goes_on(people, tmp_path):
    class Interrupted(NoiseSampler):
        def __call__(self, prompt, **options):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(prompt, **options)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, tiny_suite(), people, [MOA], lambda *_: Interrupted(), batch_size=3)
    seen = []
    made = generate(tmp_path, tiny_suite(), people, [MOA], _noise, batch_size=3, progress=lambda *x: seen.append(x))
    assert made == 2 and seen == [("moa", 8, 8, "images/moa/boy-2/beach/1.png")]


def test_a_batch_that_does_not_fit_is_halved(people, tmp_path):
    sampler = NoiseSampler(most=2)
    generate(tmp_path / "halved", tiny_suite(), people, [MOA], lambda *_: sampler, batch_size=8)
    generate(tmp_path / "whole", tiny_suite(), people, [MOA], _noise, batch_size=8)
    assert [len(call["prompt"]) for call in sampler.calls] == [2, 2, 2, 2] and sampler.failed == 2  # 8, 4
    for shot in shots(tiny_suite(), people, MOA):
        assert np.array_equal(_pixels(tmp_path / "halved", shot.path), _pixels(tmp_path / "whole", shot.path))
    with pytest.raises(EvaluationError, match=r"^cpu: images/moa/boy-2/beach/1.png: OutOfMemoryError: too many"):
        generate(tmp_path / "none", tiny_suite(), people, [MOA], lambda *_: NoiseSampler(most=0))


def test_the_expert_interval_of_the_digest_is_the_pipelines(people, tmp_path, monkeypatch):
    sampler = NoiseSampler()
    generate(tmp_path, tiny_suite(), people, [MOA], lambda *_: sampler)
    assert {call["expert_interval"] for call in sampler.calls} == {EXPERT_INTERVAL}
    monkeypatch.setattr("moa.evaluation.generate.EXPERT_INTERVAL", 3)
    assert generate(tmp_path, tiny_suite(), people, [MOA], lambda *_: sampler) == 8
    assert sampler.calls[-1]["expert_interval"] == 3


def test_nobody_without_a_reference_is_drawn(people):
    lost = SuiteSubject("kim", "woman", None, None, "kim", problem="kim holds no photograph")
    suite = tiny_suite(pairs={**PAIRS, "count": 3})
    for method in (PRIOR, MOA):
        assert shots(suite, [*people, lost], method) == shots(tiny_suite(pairs=PAIRS), people, method)


def test_a_real_pipeline_shows_the_subject_whatever_the_batch(people, pipeline, tmp_path):
    suite, sampler = tiny_suite(seeds=[0]), partial(open_pipeline, pipeline)
    for batch_size in (1, 4):
        generate(tmp_path / str(batch_size), suite, people, [PRIOR, MOA], sampler, batch_size=batch_size)
    for path in ("images/moa/man-0/hat/0.png", "images/prior/man/hat/0.png"):
        alone, together = (_pixels(tmp_path / size, path).astype(int) for size in ("1", "4"))
        assert np.abs(alone - together).max() <= 1
    moa, prior = (_pixels(tmp_path / "1", f"images/{m}/hat/0.png").astype(int) for m in ("moa/man-0", "prior/man"))
    assert np.abs(moa - prior).mean() > 1


def test_a_pair_is_given_in_the_order_of_its_words(people, tmp_path):
    sampler = NoiseSampler()
    twins = [people[0], replace(people[1], word="man")]
    suite = tiny_suite(pairs=PAIRS)
    generate(tmp_path, suite, twins, [PRIOR, MOA], lambda *_: sampler, batch_size=100)
    prior, moa = sampler.calls
    assert prior["subjects"] is None and prior["prompt"][-1] == "a man and a man in the park"
    assert [[s.image for s in group] for group in moa["subjects"]][-3:] == [
        [twins[1].reference],
        [people[0].reference, people[1].reference],
        [people[0].reference, people[1].reference],
    ]
    assert [(s.word, s.prepare) for s in moa["subjects"][-1]] == [("man", False)] * 2
    assert [shot.path for shot in shots(suite, twins, MOA)][-2:] == [
        f"images/moa/man-0+boy-2/park/{n}.png" for n in (0, 1)
    ]
    assert (tmp_path / "images/prior/man+man/park/1.png").is_file()


def test_the_pipeline_binds_both_people_of_a_pair(people, pipeline, tmp_path):
    twins = [people[0], replace(people[1], word="man")]
    suite = tiny_suite(seeds=[0], pairs={**PAIRS, "seeds": [0]})
    generate(tmp_path / "ab", suite, twins, [MOA], partial(open_pipeline, pipeline))
    generate(tmp_path / "ba", suite, twins[::-1], [MOA], partial(open_pipeline, pipeline))
    ab = _pixels(tmp_path, "ab/images/moa/man-0+boy-2/park/0.png").astype(int)
    ba = _pixels(tmp_path, "ba/images/moa/boy-2+man-0/park/0.png").astype(int)
    assert np.abs(ab - ba).mean() > 0.5  # who stands first matters, so each has an own place


@pytest.mark.parametrize("text", ["a man, then a {first} and a {second}", "a {first} and {second}s"])
def test_a_prompt_that_binds_elsewhere_is_refused(people, text):
    suite = tiny_suite(pairs={**PAIRS, "prompts": [{"id": "park", "text": text}]})
    with pytest.raises(SuiteError, match="suite tiny: prompt park: "):
        shots(suite, people, MOA)


def test_a_device_that_fails_is_named_and_what_was_made_stays(people, pipeline, tmp_path):
    suite = tiny_suite(seeds=[0])
    broken = replace(MOA, name="broken", adapter=tmp_path / "absent")
    with pytest.raises(EvaluationError, match=r"^cpu: images/broken/\S+: AdapterError: .*absent.*What was finished"):
        generate(tmp_path, suite, people, [PRIOR, broken], partial(open_pipeline, pipeline))
    assert len(list(tmp_path.rglob("*.png"))) == 4  # the prior's, all of them
