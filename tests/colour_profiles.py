"""Colour profiles as cameras embed them, made from the one of sRGB that Pillow can write."""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageCms

PRIMARIES = {  # XYZ of red, green and blue under D50
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
}


def profile(name: str) -> bytes:
    """An ICC profile with the primaries of `name` and the curve of sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (entries,) = struct.unpack(">I", data[128:132])
    for at in range(132, 132 + 12 * entries, 12):
        tag, offset, _ = struct.unpack(">4sII", data[at : at + 12])
        if tag in (b"rXYZ", b"gXYZ", b"bXYZ"):
            values = PRIMARIES[name][(b"rXYZ", b"gXYZ", b"bXYZ").index(tag)]
            data[offset + 8 : offset + 20] = b"".join(struct.pack(">i", round(65536 * value)) for value in values)
    return bytes(data)


def stored_as(image: Image.Image, name: str) -> Image.Image:
    """An RGB image as a camera of that profile stores it: other numbers for the same colours, and the profile."""
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile(name)))
    stored = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), given)
    assert stored is not None
    stored.info["icc_profile"] = profile(name)
    return stored
