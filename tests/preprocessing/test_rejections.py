"""A folder with every kind of bad image: each becomes one line with its reason, the good ones are as without them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.errors import PreprocessingError, SourceError, TooManyRejectedError
from preprocessing.run import preprocess
from preprocessing.verify import verify
from tests.preprocessing.folders import (
    add_photo,
    bomb,
    declaration,
    files_of,
    metadata_of,
    photo_names,
    rejected_of,
    samples_of,
)

GOOD = ["good/a.png", "good/b.jpg", "good/c.webp"]
BAD = {
    "bad/bomb.png": "too_large",
    "bad/cropped-away.png": "no_person",
    "bad/empty.jpg": "unreadable",
    "bad/late-word.png": "truncated_caption",
    "bad/mask-of-other-size.png": "bad_annotation",
    "bad/nan.png": "bad_annotation",
    "bad/endless.png": "bad_annotation",
    "bad/no-caption.png": "bad_annotation",
    "bad/no-json.png": "bad_annotation",
    "bad/no-mask.png": "bad_annotation",
    "bad/no-word.png": "no_word",
    "bad/not-in-mask.png": "word_mask_mismatch",
    "bad/one-word-for-two.png": "word_mask_mismatch",
    "bad/same-mask-value.png": "bad_annotation",
    "bad/text.png": "unreadable",
    "bad/tiny.png": "too_small",
    "bad/truncated.jpg": "unreadable",
}


def add_good(root: Path) -> None:
    for shade, name in enumerate(GOOD):
        add_photo(root, name, shade=shade)


def add_bad(root: Path) -> None:
    for name in BAD:
        add_photo(root, name)
    edit = {name: root / "bad" / name for name in ("empty.jpg", "text.png", "truncated.jpg", "bomb.png")}
    edit["empty.jpg"].write_bytes(b"")
    edit["text.png"].write_text("this is no image")
    edit["truncated.jpg"].write_bytes(edit["truncated.jpg"].read_bytes()[:500])
    edit["bomb.png"].write_bytes(bomb(12_000))
    Image.new("L", (9, 9)).save(root / "bad/mask-of-other-size.mask.png")
    (root / "bad/no-json.json").unlink()
    (root / "bad/no-mask.mask.png").unlink()
    (root / "bad/nan.json").write_text('{"caption": "a man", "attributes": {"x": NaN}}')
    man = '{"caption": "a man", "people": [{"word": "man", "mask_value": 1}], "attributes": {"x": 1e999}}'
    (root / "bad/endless.json").write_text(man)
    (root / "bad/no-caption.json").write_text('{"people": []}')
    twice = [{"word": "man", "mask_value": 1}] * 2
    (root / "bad/same-mask-value.json").write_text(json.dumps({"caption": "a man", "people": twice}))
    other = [{"word": "man", "mask_value": 5}]
    (root / "bad/not-in-mask.json").write_text(json.dumps({"caption": "a man", "people": other}))
    boxes = [("man", (4, 4, 20, 40)), ("man", (26, 4, 44, 40))]
    add_photo(root, "bad/one-word-for-two.png", "a man", boxes)
    add_photo(root, "bad/no-word.png", "a dog on a beach")
    add_photo(root, "bad/late-word.png", "far away behind all of these many trees a man")
    add_photo(root, "bad/tiny.png", size=(40, 12), people=[("man", (4, 4, 9, 9))])
    add_photo(root, "bad/cropped-away.png", size=(96, 48), people=[("man", (0, 0, 20, 40))])


CONFIG = declaration(max_pixels=10**7, caption_words=9)


def test_each_bad_image_is_one_line_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_good(root)
    add_bad(root)
    with pytest.raises(TooManyRejectedError, match=r"17 of 20 .* more than the allowed 50%"):
        preprocess(CONFIG, tmp_path / "out", source_root=root)  # what nobody set
    preprocess(CONFIG, tmp_path / "out", source_root=root, max_bad=1)
    assert rejected_of(tmp_path / "out") == BAD
    counts = verify(tmp_path / "out")
    assert (counts["images"], counts["samples"], counts["rejected"]) == (20, 3, 17)
    quality = json.loads((tmp_path / "out/quality.json").read_text())
    assert quality["rejected"] == {"total": 17, "by_reason": dict(Counter(BAD.values()))}


def test_good_images_do_not_depend_on_bad_ones(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_good(root)
    preprocess(CONFIG, tmp_path / "clean", source_root=root)
    add_bad(root)
    preprocess(CONFIG, tmp_path / "mixed", source_root=root, max_bad=1)
    clean, mixed = (
        {json.loads(members["json"])["source"]["name"]: members for members in samples_of(tmp_path / out).values()}
        for out in ("clean", "mixed")
    )
    assert sorted(clean) == sorted(mixed) == GOOD
    for name in GOOD:
        assert {**clean[name], "json": b""} == {**mixed[name], "json": b""}


def test_what_could_not_be_read_when_it_was_listed_is_dropped(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_photo(root, "good.png")
    add_photo(root, "no-annotation.png")
    (root / "no-annotation.json").unlink()
    (root / "no-annotation.json").symlink_to("nowhere")
    (root / "dangling.png").symlink_to("nowhere")
    preprocess(CONFIG, tmp_path / "out", source_root=root, max_bad=1)
    assert rejected_of(tmp_path / "out") == {"dangling.png": "unreadable", "no-annotation.png": "bad_annotation"}


@pytest.mark.parametrize("suffix", [".png", ".json", ".mask.png"])
@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), MemoryError()])
def test_a_passing_trouble_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, suffix: str
) -> None:
    """A file that was hashed a moment ago cannot be read: the run ends, and the next one has all images."""
    root, out = tmp_path / "photos", tmp_path / "out"
    last = photo_names(4)[-1]
    for number, name in enumerate(photo_names(4)):
        add_photo(root, name, shade=number)
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == last.removesuffix(".png") + suffix:
            raise trouble
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        of_disk = rf"{last.removesuffix('.png')}{suffix}: could be read a moment ago"
        of_memory = f"not enough memory, while reading {last}"
        with pytest.raises(PreprocessingError, match=of_disk if isinstance(trouble, OSError) else of_memory):
            preprocess(declaration(), out, source_root=root)
    assert [path.name for path in (out / "shards").glob("*.tar")] == ["train-00000.tar"]
    preprocess(declaration(), out, source_root=root)
    assert rejected_of(out) == {}
    assert verify(out)["samples"] == 4


def test_only_subjects_with_faces_when_asked(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "with.png")
    add_photo(tmp_path / "photos", "without.png")
    path = tmp_path / "photos/without.json"
    values = json.loads(path.read_text())
    values["people"][0]["face"] = None
    path.write_text(json.dumps(values))
    preprocess(declaration(require_face=True), tmp_path / "out", source_root=tmp_path / "photos")
    assert rejected_of(tmp_path / "out") == {"without.png": "no_face"}
    preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "photos")
    assert metadata_of(tmp_path / "out")["without.png"]["subjects"][0]["face"] is None


def test_too_many_losses_withhold_the_manifest_and_keep_the_work(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    add_good(root)
    add_photo(root, "bad.png", "a dog")
    with pytest.raises(TooManyRejectedError, match=r"1 of 4 images were dropped \(25%.*1 no_word"):
        preprocess(declaration(), out, source_root=root, max_bad=0.2)
    assert not (out / "manifest.json").exists()
    assert rejected_of(out) == {"bad.png": "no_word"}
    written = {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*.tar")}
    preprocess(declaration(), out, source_root=root, max_bad=0.25)
    assert written == {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*.tar")} != {}
    assert verify(out)["samples"] == 3


def test_a_finished_dataset_must_meet_a_stricter_limit(tmp_path: Path) -> None:
    """Up to date for who allowed the losses; who allows fewer is told, and the folder stays as it is."""
    root, out = tmp_path / "photos", tmp_path / "out"
    add_good(root)
    add_photo(root, "bad.png", "a dog")
    preprocess(declaration(), out, source_root=root, max_bad=0.5)
    before = files_of(out)
    with pytest.raises(TooManyRejectedError, match=r"1 of 4 images were dropped \(25%, more than the allowed 5%"):
        preprocess(declaration(), out, source_root=root, max_bad=0.05)
    assert files_of(out) == before
    heard: list[str] = []
    preprocess(declaration(), out, source_root=root, max_bad=0.25, progress=lambda *event: heard.append(event[2]))
    assert heard == ["up to date"]


def test_a_dataset_of_nothing_is_an_error(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "bad.png", "a dog")
    with pytest.raises(TooManyRejectedError, match="nothing is left"):
        preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "photos")


def test_a_chunk_without_samples_leaves_no_tar(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    *dogs, somebody = photo_names(4)
    for name in dogs:
        add_photo(root, name, "a dog")
    add_photo(root, somebody)
    preprocess(declaration(), tmp_path / "out", source_root=root, max_bad=1)
    names = sorted(path.name for path in (tmp_path / "out/shards").iterdir())
    assert names == ["train-00000.json", "train-00001.json", "train-00001.tar"]
    record = json.loads((tmp_path / "out/shards/train-00000.json").read_text())
    nothing = {"samples": 0, "bytes": 0, "sha256": f"sha256:{hashlib.sha256(b'').hexdigest()}", "index": []}
    assert {field: record[field] for field in nothing} == nothing
    assert verify(tmp_path / "out")["samples"] == 1


def test_folders_without_images_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(SourceError, match="no files at all"):
        preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "raw")
    (tmp_path / "raw/photo.heic").write_bytes(b"x")
    (tmp_path / "raw/x.mask.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"it holds 1 x \.heic, 1 x \.png"):
        preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "raw")
    with pytest.raises(SourceError, match="no such folder"):
        preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "nowhere")
    with pytest.raises(SourceError, match="--source-root"):
        preprocess(declaration(), tmp_path / "out")


def test_what_the_samples_say(tmp_path: Path) -> None:
    """One image by hand: 64 x 48, so the square is columns 8 to 56, scaled by 32 / 48."""
    boxes = [("man", (11, 12, 26, 42)), ("woman", (32, 12, 50, 42)), ("child", (8, 0, 10, 2))]
    caption = "a woman, a child and a man"
    add_photo(tmp_path / "photos", "a/pair.png", caption, boxes, size=(64, 48), attributes={"people": ["M", "W", "C"]})
    preprocess(declaration(min_area=0.02), tmp_path / "out", source_root=tmp_path / "photos")
    metadata = metadata_of(tmp_path / "out")["a/pair.png"]
    man, woman = metadata["subjects"]
    assert (man["word"], man["start"], man["end"], man["box"]) == ("man", 23, 26, [2, 8, 12, 28])
    assert (woman["word"], woman["start"], woman["end"], woman["box"]) == ("woman", 2, 7, [16, 8, 28, 28])
    assert man["face"] == {"box": [2, 8, 12, 18], "probability": 1.0}
    assert man["area"] == pytest.approx(10 * 20 / 32**2, abs=1e-6)
    assert woman["identity"] == "woman-2"
    assert metadata["attributes"] == {"people": ["M", "W"]}
    members = next(iter(samples_of(tmp_path / "out").values()))
    assert sorted(members) == ["image.png", "json", "mask.png", "subject0.webp", "subject1.webp"]
    (tmp_path / "mask.png").write_bytes(members["mask.png"])
    labels = np.asarray(Image.open(tmp_path / "mask.png"))
    assert {value: int((labels == value).sum()) for value in np.unique(labels)} == {0: 583, 1: 200, 2: 240, 255: 1}
