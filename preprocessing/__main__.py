"""Command line of preprocessing; `python -m preprocessing -h` shows examples."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from preprocessing.config import load_dataset
from preprocessing.errors import ConfigError, PreprocessingError, TooManyRejectedError
from preprocessing.models import MODELS_VARIABLE
from preprocessing.run import preprocess

EXAMPLES = """examples:
  python -m preprocessing datasets/miniature.yaml --out data/miniature
  python -m preprocessing datasets/photos.yaml --out data/photos --source-root ~/Pictures/portraits
  python -m preprocessing datasets/ffhq.yaml --out data/ffhq --source-root data/raw/ffhq --max-bad 0.05
  python -m preprocessing.verify data/miniature

exit codes:
  0  done, or up to date     1  an error, explained on stderr     2  wrong arguments or declaration
  3  more images were dropped than --max-bad allows               130  interrupted; run again to go on
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        manifest = preprocess(
            load_dataset(options.declaration),
            options.out,
            source_root=options.source_root,
            progress=ProgressLine(quiet=options.quiet),
            workers=options.workers,
            devices=options.device,
            models=options.models,
            max_bad=options.max_bad,
            force=options.force,
        )
    except ConfigError as error:
        return _fail(error, 2)
    except TooManyRejectedError as error:
        return _fail(error, 3)
    except PreprocessingError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted. Finished shards are kept; run the same command again to go on.", 130)
    print(_summary(manifest))
    return 0


class ProgressLine:
    """Prints progress about once a second to stderr, and every change of the last image."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = 0.0

    def __call__(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if not self._quiet and (done == total or now - self._last >= 1):
            print(f"{done}/{total} images  {message}", file=sys.stderr, flush=True)
            self._last = now


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing",
        description="Turn raw images into shards (datasets/FORMAT.md). The same command resumes an interrupted run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("declaration", type=_path, help="dataset declaration, such as datasets/miniature.yaml")
    parser.add_argument("--out", type=_path, required=True, help="folder of the dataset, such as data/miniature")
    parser.add_argument("--source-root", type=_path, help="folder of the images, instead of source.root")
    parser.add_argument("--workers", type=_positive, help="processes (default: one for each CPU)")
    parser.add_argument(
        "--device",
        action="append",
        help="for models, such as cuda:0; given several times they share the work (default: every GPU, else the CPU)",
    )
    parser.add_argument("--models", type=_path, help=f"folder of models (default: ${MODELS_VARIABLE}, else models/)")
    parser.add_argument("--max-bad", type=_share, default=0.5, help="largest share of dropped images (default: 0.5)")
    parser.add_argument("--force", action="store_true", help="start over, whatever is in the folder")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    return parser


def _summary(manifest: Path) -> str:
    counts = json.loads(manifest.read_text())["counts"]
    splits = ", ".join(f"{n} {split}" for split, n in counts["splits"].items())
    return (
        f"{manifest}: {counts['samples']} samples ({splits}) with {counts['subjects']} subjects; "
        f"{counts['rejected']} of {counts['images']} images dropped"
    )


def _fail(error: object, code: int) -> int:
    print(f"preprocessing: {error}", file=sys.stderr)
    return code


def _path(text: str) -> Path:
    return Path(text).expanduser()  # the shell leaves the ~ of --source-root=~/pictures alone


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
