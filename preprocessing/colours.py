"""Colour profiles: phones store photographs in Display P3 and cameras in Adobe RGB; models know the numbers of sRGB.

`preprocessing/colours.py` and `moa/colours.py` are the same text, because the rooms do not import each other.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MODES = ("RGB", "RGBA", "P")  # of images whose colours a profile of RGB describes
SAME = 2  # of 255: profiles of sRGB differ so much among each other, and between two of them nothing is converted


def in_srgb(image: Image.Image) -> Image.Image:
    """The image in the colours that its embedded profile means, as sRGB without a profile: RGB, or RGBA if transparent.

    An image that has no profile, one of sRGB, or one that cannot be used (junk, or for colours that are not RGB) is
    returned itself; so are grey and CMYK images, with any profile.
    """
    profile = image.info.get("icc_profile")
    to_srgb = _to_srgb(profile) if isinstance(profile, bytes) and image.mode in MODES else None
    if to_srgb is None:
        return image
    colours = to_srgb.apply(image.convert("RGB"))
    colours.info.clear()  # Pillow notes a profile of sRGB
    if image.has_transparency_data:
        colours.putalpha(image.convert("RGBA").getchannel("A"))
    return colours


@lru_cache(maxsize=8)  # the photographs of a folder come from few devices
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """None for a profile that needs no conversion, or has none."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(6, 36, 3)
    changed = np.asarray(transform.apply(Image.fromarray(probe)), int)
    return transform if np.abs(changed - probe).max() > SAME else None
