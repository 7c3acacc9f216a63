"""Draw a contact sheet of the miniature world: `python -m preprocessing.world --out contact-sheet.png [--split
heldout]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from preprocessing.world import World, contact_sheet
from preprocessing.world.cast import FRAMINGS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m preprocessing.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=1, help="seed of the world (default 1)")
    parser.add_argument("--split", choices=("train", "heldout"), default="train", help="which people (default train)")
    parser.add_argument(
        "--framing", choices=tuple(FRAMINGS), default="scenes", help="kind of pictures (default scenes)"
    )
    parser.add_argument("--rows", type=int, default=6, help="rows of eight cells, four scenes each (default 6)")
    parser.add_argument("--size", type=int, default=64, help="pixels per picture (default 64)")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    world = World(args.seed, args.size, framing={args.split: args.framing})
    contact_sheet(world, rows=args.rows, split=args.split).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
