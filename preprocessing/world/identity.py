"""Who a person of the miniature world is: the attributes that stay the same in every picture.

An identity has a class word (the noun that prompts use) and looks: skin, hair, glasses, beard, clothes, build. There
are
over a hundred thousand of them; which ones are held out is decided by a digest of the looks, so a held-out person never
occurs
in the training split, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict, dataclass

RGB = tuple[int, int, int]

SKINS: dict[str, RGB] = {
    "pale": (255, 224, 200),
    "fair": (244, 199, 162),
    "olive": (222, 170, 122),
    "tan": (196, 136, 88),
    "brown": (148, 94, 58),
    "dark": (98, 60, 40),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (34, 28, 32),
    "brown": (104, 62, 34),
    "blonde": (240, 200, 92),
    "red": (196, 66, 32),
    "grey": (168, 170, 178),
    "white": (242, 242, 246),
    "blue": (58, 88, 214),
    "pink": (236, 110, 170),
}
CLOTHES: dict[str, RGB] = {
    "red": (214, 46, 46),
    "orange": (244, 140, 34),
    "yellow": (248, 212, 56),
    "green": (46, 152, 74),
    "blue": (44, 96, 212),
    "purple": (142, 62, 184),
    "white": (246, 246, 246),
    "black": (44, 44, 52),
}
TROUSERS: dict[str, RGB] = {"navy": (44, 52, 92), "grey": (104, 108, 118), "brown": (112, 78, 52)}
BUILDS: dict[str, float] = {"slim": 0.84, "medium": 1.0, "broad": 1.24, "round": 1.12}

HAIR_STYLES: dict[str, tuple[str, ...]] = {
    "man": ("short", "spiky", "curly", "long", "mohawk", "bald"),
    "boy": ("short", "spiky", "curly", "mohawk"),
    "woman": ("long", "bob", "bun", "ponytail", "curly", "afro"),
    "girl": ("long", "bob", "bun", "ponytail", "pigtails"),
}
WORDS = tuple(HAIR_STYLES)
GLASSES = ("none", "none", "none", "round", "sunglasses")
BEARDS = ("none", "none", "short", "long", "moustache")
PATTERNS = ("plain", "plain", "striped")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The looks of one person; all fields are keys of the tables above."""

    word: str
    skin: str
    hair_colour: str
    hair_style: str
    glasses: str
    beard: str
    top: str
    pattern: str
    trousers: str
    build: str

    @property
    def code(self) -> str:
        """A short stable name: the same looks give the same code, e.g. `m-1f3a9c0b`."""
        text = "|".join(f"{key}={value}" for key, value in sorted(asdict(self).items()))
        return f"{self.word[0]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def is_held_out(self) -> bool:
        """True for about one identity in eight: these people occur in the held-out split only."""
        return int(self.code.rsplit("-", 1)[1], 16) % 8 == 0

    @property
    def is_child(self) -> bool:
        return self.word in ("boy", "girl")

    @property
    def wears_dress(self) -> bool:
        return self.word in ("woman", "girl")

    def describe(self) -> str:
        """The looks in words, for the long captions a text-image model is trained on."""
        hair = "a bald head" if self.hair_style == "bald" else f"{self.hair_style} {self.hair_colour} hair"
        extras = {"round": ", round glasses", "sunglasses": ", sunglasses"}.get(self.glasses, "")
        if self.beard != "none":
            extras += f", a {self.hair_colour} moustache" if self.beard == "moustache" else f", a {self.beard} beard"
        garment = "dress" if self.wears_dress else "shirt"
        pattern = "striped " if self.pattern == "striped" else ""
        return f"a {self.build} {self.word} with {self.skin} skin, {hair}{extras} and a {pattern}{self.top} {garment}"


def sample_identity(rng: random.Random, *, held_out: bool) -> Identity:
    """Draw an identity of the wanted split; `rng` decides, nothing else."""
    while True:
        word = rng.choice(WORDS)
        identity = Identity(
            word=word,
            skin=rng.choice(list(SKINS)),
            hair_colour=rng.choice(list(HAIR_COLOURS)),
            hair_style=rng.choice(HAIR_STYLES[word]),
            glasses=rng.choice(GLASSES),
            beard=rng.choice(BEARDS) if word == "man" else "none",
            top=rng.choice(list(CLOTHES)),
            pattern=rng.choice(PATTERNS),
            trousers=rng.choice(list(TROUSERS)),
            build=rng.choice(list(BUILDS)),
        )
        if identity.is_held_out == held_out:
            return identity
