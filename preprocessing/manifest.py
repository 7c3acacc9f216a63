"""The manifest: what a finished dataset folder says about itself, and whether it is what a declaration asks for."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from preprocessing.atomic import sha256_file, sha256_json, write_bytes, write_json
from preprocessing.config import SPLITS, DatasetConfig
from preprocessing.disk import ANOTHER
from preprocessing.errors import OutputError
from preprocessing.finished import are_whole
from preprocessing.frame import Item
from preprocessing.quality import summarize

FORMAT = "moa-shards/1"
# Raised when a change of this package changes what is written from the same inputs: then every folder is made anew. Not
# raised when photographs with colour profiles began to be brought to sRGB, which most folders have none of.
RECIPE = 1
_TOOLS = {"blip2": ("torch", "transformers"), "mask2former": ("torch", "transformers"), "mtcnn": ("facenet-pytorch",)}


def inputs_digest(config: DatasetConfig, source_digest: str, items: list[Item]) -> str:
    """Digest of the declaration without the source's place, of the drawing code, and of the items with digests."""
    declared = config.model_dump(mode="json")
    declared["source"].pop("root", None)
    listed = [
        [item.number, item.name, item.split, item.sha256, item.licence, item.author, item.sidecars] for item in items
    ]
    return sha256_json({"recipe": RECIPE, "config": declared, "source": source_digest, "items": listed})


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None when there is none. Raises OutputError for one that is no manifest of ours."""
    path = out / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); delete it and run again, whole shards are kept"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise OutputError(f"{path}: not a manifest of format {FORMAT}; {ANOTHER}, or delete this one")
    if lost := [name for name in ("dataset", "inputs", "digest") if not manifest.get(name)]:
        raise OutputError(f"{path}: lacks {lost[0]}; delete it and run again, whole shards are kept")
    return manifest


def is_up_to_date(out: Path, manifest: dict[str, Any], inputs: str) -> bool:
    """Whether a folder was made from these inputs and all its files are there, byte for byte."""
    if manifest["inputs"] != inputs or manifest["digest"] != manifest_digest(manifest):
        return False
    try:
        return (
            sha256_file(out / "rejected.jsonl") == manifest["rejected_sha256"]
            and sha256_file(out / "quality.json") == manifest["quality_sha256"]
            and are_whole(out / "shards", manifest["shards"])
        )
    except OSError:
        return False


def write_reports(out: Path, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rejected.jsonl and quality.json; returns the content of the latter."""
    rejected = (line for shard in shards for line in sorted(shard["rejected"], key=lambda line: line["name"]))
    lines = [json.dumps(line, sort_keys=True) + "\n" for line in rejected]
    write_bytes(out / "rejected.jsonl", "".join(lines).encode())
    quality = summarize(shards)
    write_json(out / "quality.json", quality)
    return quality


def read_quality(out: Path) -> dict[str, Any]:
    """The quality.json of a folder that is up to date: its bytes are those that the manifest names."""
    return json.loads((out / "quality.json").read_text())


def write_manifest(out: Path, config: DatasetConfig, shards: list[dict[str, Any]], inputs: str) -> Path:
    """Write manifest.json over finished shards and reports; the folder is complete after this."""
    kept = [shard for shard in shards if shard["samples"]]
    samples = sum(shard["samples"] for shard in kept)
    rejected = sum(len(shard["rejected"]) for shard in shards)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dataset": {"name": config.name, "version": config.version},
        "config": config.model_dump(mode="json"),
        "tools": _tools_of(shards, config),
        "counts": {
            "images": samples + rejected,
            "samples": samples,
            "rejected": rejected,
            "subjects": sum(sum(shard["statistics"]["counts"]["subjects"].values()) for shard in shards),
            "splits": {split: sum(s["samples"] for s in kept if s["split"] == split) for split in SPLITS},
        },
        "shards": [
            {
                "name": s["shard"],
                "split": s["split"],
                "samples": s["samples"],
                "bytes": s["bytes"],
                "sha256": s["sha256"],
            }
            for s in kept
        ],
        "rejected_sha256": sha256_file(out / "rejected.jsonl"),
        "quality_sha256": sha256_file(out / "quality.json"),
        "inputs": inputs,
    }
    manifest |= {"digest": manifest_digest(manifest), "commit": git_commit()}
    write_json(out / "manifest.json", manifest)
    return out / "manifest.json"


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Digest of a manifest without `commit` and `digest`."""
    return sha256_json({name: value for name, value in manifest.items() if name not in ("commit", "digest")})


def tool_versions(config: DatasetConfig) -> dict[str, str]:
    """Versions of the packages that decide pixels and words."""
    kinds = (config.captions.kind, config.segmentation.kind, config.faces.kind)
    packages = {"pillow", "numpy", *(package for kind in kinds for package in _TOOLS.get(kind, ()))}
    return {package: _version(package) for package in sorted(packages)}


def _tools_of(shards: list[dict[str, Any]], config: DatasetConfig) -> dict[str, str]:
    """The versions that made the shards, separated by commas where shards that were kept had others.

    A shard of a version of this package that did not note them is taken for one of today's.
    """
    today, versions = tool_versions(config), defaultdict(set)
    for shard in shards:
        for package, number in shard.get("tools", today).items():
            versions[package].add(number)
    return {package: ", ".join(sorted(versions[package])) for package in sorted(versions)}


def git_commit() -> str | None:
    """The commit of this code, with `+changes` behind it where a file of this package differs from it; None outside a
    git checkout of it."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
