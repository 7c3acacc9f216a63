"""Git ids, against git itself and against the real Hub; files that are not the ones a Hub lists."""

from __future__ import annotations

from moa.hub.content import damaged_files, local_file
from moa.hub.git_names import git_sha1, pointer_of


def test_the_id_of_a_blob_is_that_of_git():
    """`printf hello | git hash-object --stdin`."""
    assert git_sha1(b"hello") == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


def test_the_id_of_a_large_file_is_the_one_the_real_hub_lists():
    """`flax_model.msgpack` of a model on huggingface.co, as the documentation of `HfApi.list_repo_tree` prints it."""
    pointer = pointer_of("d88b0d6a6ff9c3f8151f9d3228f57092aaea997f09af009eefd7373a77b5abb9", 497764107)
    assert len(pointer) == 134
    assert git_sha1(pointer) == "8095a62ccb4d806da7666fcda07467e2d150218e"


def test_a_file_goes_by_both_ids_wherever_its_bytes_are(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    on_disk, in_memory = local_file(tmp_path / "x"), local_file(b"hello")
    assert on_disk.names == in_memory.names and on_disk.digest == in_memory.digest
    sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert on_disk.digest.sha256 == f"sha256:{sha256}"
    assert on_disk.names == {git_sha1(b"hello"), git_sha1(pointer_of(sha256, 5))}


def test_a_file_that_is_gone_is_damaged_as_one_of_other_bytes_is(tmp_path):
    listed = dict.fromkeys(("gone", "kept", "other"), git_sha1(b"hello"))
    (tmp_path / "kept").write_bytes(b"hello")
    (tmp_path / "other").write_bytes(b"hallo")
    assert damaged_files(tmp_path, listed) == ["gone", "other"]
