"""The adapter folder: what it holds, what it fits, and what is refused.    pytest tests/moa/test_adapter.py"""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save

from moa.adapter import load_adapter, read_adapter, save_adapter
from moa.config import MoAConfig
from moa.errors import AdapterError, AdapterGeometryError
from tests.moa.full_disk import full_disk
from tests.tiny_models import tiny_moa_unet, tiny_unet

PROVENANCE = {"inputs": {"shards": "sha256:1", "base": "sha256:2", "init": None}, "step": 7, "commit": "abc", "seed": 3}


@pytest.fixture(scope="module")
def unet():
    """Weights that fp16 holds exactly, so a round trip can be compared bit for bit."""
    model = tiny_moa_unet(router="mlp")
    with torch.no_grad():
        for _, parameter in model.moa_parameters():
            parameter.copy_(parameter.half())
    return model


@pytest.fixture
def folder(unet, tmp_path):
    save_adapter(unet, tmp_path / "adapter", PROVENANCE)
    return tmp_path / "adapter"


def test_the_folder_is_what_the_format_says(unet, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "moa.safetensors"]
    assert manifest["format"] == "moa-adapter/1"
    assert {key: manifest[key] for key in ("inputs", "step", "commit")} == {
        key: PROVENANCE[key] for key in ("inputs", "step", "commit")
    }
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"sha256": f"sha256:{hashlib.sha256(data).hexdigest()}", "bytes": len(data)}
    tensors = load_file(folder / "moa.safetensors")
    assert tensors.keys() == unet.moa_state_dict().keys()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    config = json.loads((folder / "config.json").read_text())
    assert config["moa"]["router"] == "mlp" and config["provenance"] == PROVENANCE


def test_a_loaded_adapter_is_the_saved_one_on_another_base(unet, folder):
    base = tiny_unet()
    loaded = load_adapter(base, folder)
    assert loaded.moa_config == unet.moa_config and loaded.provenance == PROVENANCE
    for name, tensor in unet.moa_state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    back = loaded.to_base_unet().state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in base.state_dict().items())
    assert [n for n, p in loaded.named_parameters() if p.requires_grad] == [n for n, _ in loaded.moa_parameters()]


def test_it_takes_the_precision_of_the_base(folder):
    loaded = load_adapter(tiny_unet().bfloat16(), folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_the_same_adapter_has_the_same_bytes_and_another_has_another_digest(unet, folder, tmp_path):
    save_adapter(unet, tmp_path / "again", PROVENANCE)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    read = read_adapter(folder)
    assert read.provenance == PROVENANCE and read.config == unet.moa_config
    for model, changes in ((tiny_moa_unet(router="mlp"), {}), (unet, {"step": 8}), (unet, {"inputs": {}})):
        save_adapter(model, tmp_path / "other", PROVENANCE | changes)
        assert read_adapter(tmp_path / "other").digest != read.digest


@pytest.mark.parametrize("name", ["moa.safetensors", "config.json", "manifest.json"])
def test_missing_and_damaged_files_are_named(folder, name):
    data = (folder / name).read_bytes()
    for damaged in (data[:-20], data[:40] + b"?" + data[41:], b""):
        (folder / name).write_bytes(damaged)
        with pytest.raises(AdapterError, match="manifest" if name == "manifest.json" else name):
            load_adapter(tiny_unet(), folder)
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"{name} cannot be read") as missing:
        load_adapter(tiny_unet(), folder)
    assert "JSON" not in str(missing.value)


def test_other_formats_are_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": "moa-adapter/9"}))
    with pytest.raises(AdapterError, match="moa-adapter/9.*export it again"):
        load_adapter(tiny_unet(), folder)
    (folder / "manifest.json").write_text('["moa-adapter/1"]')
    with pytest.raises(AdapterError, match=r"manifest\.json is no JSON object.*download or export"):
        load_adapter(tiny_unet(), folder)


def vouch(folder, files):
    """Let the manifest list other files, as a wrong writer would: it matches its own digest."""
    manifest = json.loads((folder / "manifest.json").read_text()) | {"files": files}
    kept = {key: value for key, value in manifest.items() if key not in ("commit", "digest")}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    manifest["digest"] = f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def listed(folder):
    return json.loads((folder / "manifest.json").read_text())["files"]


def rewrite(folder, name, data):
    """Put other bytes into an adapter and vouch for them."""
    (folder / name).write_bytes(data)
    entry = {"sha256": f"sha256:{hashlib.sha256(data).hexdigest()}", "bytes": len(data)}
    vouch(folder, listed(folder) | {name: entry})


@pytest.mark.parametrize("unlisted", ["moa.safetensors", "config.json"])
def test_a_file_that_the_manifest_does_not_list_is_not_read(folder, unlisted):
    """Its bytes would be anybody's."""
    (folder / unlisted).write_bytes((folder / unlisted).read_bytes()[:-100] + bytes(100))
    vouch(folder, {name: entry for name, entry in listed(folder).items() if name != unlisted})
    with pytest.raises(AdapterError, match=r"manifest\.json does not list config\.json and moa\.safetensors alone"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["../secret", "other.safetensors", "/proc/self/environ"])
def test_a_manifest_opens_no_other_file(folder, name, monkeypatch):
    (folder.parent / "secret").write_text("secret")
    opened = []
    monkeypatch.setattr("moa.adapter._read", lambda where, name: opened.append(name) or (where / name).read_bytes())
    vouch(folder, listed(folder) | {name: {"sha256": "sha256:0", "bytes": 6}})
    with pytest.raises(AdapterError, match=r"does not list config\.json and moa\.safetensors alone"):
        read_adapter(folder)
    assert opened == ["manifest.json"]


@pytest.mark.parametrize("files", [None, [], "config.json", {"config.json": {}, "moa.safetensors": []}])
def test_a_list_of_files_that_is_none_is_refused(folder, files):
    vouch(folder, files)
    with pytest.raises(AdapterError, match="alone|is damaged"):
        read_adapter(folder)


@pytest.mark.parametrize("wrong", ["lost", "added", "reshaped"])
def test_a_wrong_set_of_tensors_is_refused(folder, wrong):
    tensors = load_file(folder / "moa.safetensors")
    first = min(tensors)
    if wrong == "reshaped":
        tensors[first] = tensors[first].flatten()[:-1].clone()
    elif wrong == "added":
        tensors["a"] = tensors[first].clone()
    else:
        del tensors[first]
    rewrite(folder, "moa.safetensors", save(tensors))
    named = "a" if wrong == "added" else first
    with pytest.raises(AdapterError, match=f"1 tensors, e.g. {named}: write it again"):
        load_adapter(tiny_unet(), folder)


@pytest.mark.parametrize("lacking", ["moa", "geometry", "provenance"])
def test_a_configuration_that_lacks_a_part_is_refused(folder, lacking):
    config = json.loads((folder / "config.json").read_text())
    del config[lacking]
    rewrite(folder, "config.json", json.dumps(config).encode())
    with pytest.raises(AdapterError, match=f"not a usable adapter .'{lacking}'"):
        read_adapter(folder)


def test_an_edited_manifest_is_refused(folder):
    """Only its `commit` is not under its digest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"commit": "def"}))
    assert read_adapter(folder).digest == manifest["digest"]
    for changes in ({"step": 8}, {"inputs": {}}, {"digest": None}):
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))
        with pytest.raises(AdapterError, match="does not match its own digest"):
            read_adapter(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention_dim": 48}, "text width 32, this base has 48"),
        ({"layers_per_block": 2}, "14 attention layers, this base has 22"),
        ({"block_out_channels": (16, 48)}, "'dim': 32.*'dim': 48"),
        ({"attention_head_dim": 4}, "'heads': 2.*'heads': 4"),
    ],
    ids=["text", "layers", "width", "heads"],
)
def test_a_base_of_another_geometry_is_refused_with_the_difference(folder, change, message):
    with pytest.raises(AdapterGeometryError, match=message):
        load_adapter(tiny_unet(**change), folder)


def test_a_base_that_differs_where_moa_does_not_look_is_fine(folder, unet):
    inpainting = load_adapter(tiny_unet(in_channels=9), folder)
    assert inpainting.conv_in.in_channels == 9


def test_overwriting_leaves_no_temporary_files(unet, folder):
    save_adapter(unet, folder, {**PROVENANCE, "step": 8})
    assert len(list(folder.iterdir())) == 3
    assert read_adapter(folder).provenance["step"] == 8


def test_an_adapter_that_was_published_with_a_retired_choice_is_read():
    """The unconditional row's expert was a choice: "mixture" is what always holds now, "prior" is gone."""
    assert MoAConfig.model_validate({"image_dim": 8, "unconditional": "mixture"}) == MoAConfig(image_dim=8)
    with pytest.raises(ValidationError, match="unconditional"):
        MoAConfig.model_validate({"image_dim": 8, "unconditional": "prior"})


def test_a_folder_that_cannot_be_written_is_named(unet, tmp_path):
    with (
        full_disk(after=10_000),
        pytest.raises(AdapterError, match=r"adapter cannot be written \(File too large\): free"),
    ):
        save_adapter(unet, tmp_path / "adapter", PROVENANCE)
    assert list((tmp_path / "adapter").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="file/below cannot be written"):
        save_adapter(unet, tmp_path / "file" / "below", PROVENANCE)
