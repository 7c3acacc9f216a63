"""What a large report costs: seconds and memory to build, size, seconds to open.

    python benchmarks/report.py [--quick]        prints a table and writes benchmarks/report.json

Evaluations of 600, 2,400 and 9,600 images of 512 x 512 pixels: four methods, 15 people, up to 40 prompts and 4 seeds.
There are 24 distinct pictures (smooth colours with noise, 0.5 MB as PNG, about what a photograph needs); the images are
hard links to them, each of which the report opens, decodes and shrinks as a file of its own. Scores are made up.

Building is `python -m reports` in a process of its own; memory is its peak resident size. Opening is the time from the
navigation to the load event in headless Chromium, null where none is installed. CPU seconds stand beside both: on a
machine that is busy with other work they are what the report costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from tests.reports.chromium import Browser, find_chromium  # noqa: E402
from tests.reports.fake_run import METHODS, make_pairs, make_router, score, write_json  # noqa: E402
from tests.reports.fake_summary import summary  # noqa: E402

RESULT = Path(__file__).with_suffix(".json")
EDGE, DISTINCT, SUBJECTS, CATEGORIES = 512, 24, 15, ("accessory", "style", "action", "context")
SIZES = {600: (10, 1), 2400: (40, 1), 9600: (40, 4)}  # images: (prompts, seeds)
TARGETS = {"build_seconds": 60, "megabytes": 15, "open_seconds": 2}


def pictures(folder: Path) -> list[Path]:
    """The distinct pictures."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    made = []
    for number in range(DISTINCT):
        colours = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((EDGE, EDGE), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        made.append(folder / f"{number}.png")
        Image.fromarray(noisy).save(made[-1])
    return made


def make_run(run: Path, sources: list[Path], prompts: int, seeds: int) -> int:
    """A run with one evaluation; returns its number of images."""
    folder, rows = run / "evaluation" / "celeba-15", []
    people = [(f"{number:06d}", "man" if number % 2 else "woman") for number in range(SUBJECTS)]
    (folder / "references").mkdir(parents=True)
    for number, (subject, _) in enumerate(people):
        os.link(sources[number % DISTINCT], folder / "references" / f"{subject}.png")
    for method in METHODS[:4]:
        for subject, word in people:
            for prompt in range(prompts):
                for seed in range(seeds):
                    image = Path("images") / method.method / subject / f"p{prompt:02d}" / f"{seed}.png"
                    (folder / image).parent.mkdir(parents=True, exist_ok=True)
                    os.link(sources[len(rows) % DISTINCT], folder / image)
                    key = {"method": method.method, "subject": subject, "word": word, "prompt_id": f"p{prompt:02d}"}
                    said = {"category": CATEGORIES[prompt * 4 // prompts], "prompt": f"a {word} in scene {prompt}"}
                    rows.append(
                        key
                        | said
                        | {"seed": seed, "image": image.as_posix()}
                        | score(method, subject, f"p{prompt}", seed)
                    )
    scores = pd.DataFrame(rows)
    scores.to_parquet(folder / "scores.parquet")
    pairs = make_pairs(folder, people, 0, METHODS[:4])
    make_router(folder, scores)
    write_json(folder / "summary.json", summary(scores, pairs, METHODS[:4], "celeba-15"))
    write_json(run / "config.json", {"seed": 0})
    return len(rows)


def build(run: Path) -> dict[str, float]:
    """Seconds, CPU seconds, peak MiB and size of the page."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "reports", str(run)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"python -m reports {run} ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "build_seconds": round(seconds, 2),
        "build_cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
        "megabytes": round((run / "report" / "index.html").stat().st_size / 1e6, 2),
    }


def opened(page: Path, rounds: int = 3) -> dict[str, float | None]:
    """Seconds until the load event, and the CPU seconds of all browser processes in that time; medians over fresh
    browsers."""
    binary = find_chromium()
    if binary is None:
        return {"open_seconds": None, "open_cpu_seconds": None}
    times, used = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as profile, Browser(binary, Path(profile)) as browser:
            before = browser.cpu_seconds()
            times.append(browser.open(page))
            used.append(browser.cpu_seconds() - before)
    middle = rounds // 2
    return {"open_seconds": round(sorted(times)[middle], 2), "open_cpu_seconds": round(sorted(used)[middle], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="600 images only; writes nothing")
    quick = parser.parse_args().quick
    sizes = [600] if quick else list(SIZES)
    result: dict[str, Any] = {"cpus": os.cpu_count(), "targets": TARGETS, "images": {}}
    with tempfile.TemporaryDirectory() as scratch:
        sources = pictures(Path(scratch) / "pictures")
        for size in sizes:
            run = Path(scratch) / f"run-{size}"
            assert make_run(run, sources, *SIZES[size]) == size
            row: dict[str, Any] = build(run) | opened(run / "report" / "index.html")
            result["images"][str(size)] = row | {"load_average": round(os.getloadavg()[0], 2)}
            print(f"{size:6,} images: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
