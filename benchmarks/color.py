"""What colour profiles cost: decoding a JPEG with a profile, over decoding the same one without.

A photograph's grain is drawn, so that the decoder has as much to do as with a camera's file.
"""

import io
import json
import time
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ovseg_core.images.decoding.color_profile import rgb_profile
from ovseg_core.images.decoding.decode import decode
from schemas.config import ImageConfig

SIZE_HW = (1200, 1600)
SIDE_PX = 512
"""Of the reduced decoding that methods ask for; 0 is full size."""
REPEATS = 15
DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def main() -> None:
    """Print the ratios and figures as one line of JSON."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "none": _jpeg(b""),
        "srgb": _jpeg(srgb),
        "display_p3": _jpeg(rgb_profile("Display P3", DISPLAY_P3, 2.2)),
    }
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {}
    for name, side_px in (("full", 0), ("reduced", SIDE_PX)):
        best = {kind: min(times) for kind, times in _times(files, side_px).items()}
        for kind in ("srgb", "display_p3"):
            ratios[f"decode_{kind}_over_no_profile_{name}"] = round(best[kind] / best["none"], 2)
        figures[f"color_{name}_ms"] = {kind: round(1e3 * s, 2) for kind, s in best.items()}
    print(json.dumps({"ratios": ratios, "figures": figures}))


def _times(files: dict[str, bytes], side_px: int) -> dict[str, list[float]]:
    """Return seconds of decoding, the files by turns; a first round builds the transforms."""
    config = ImageConfig()
    times: dict[str, list[float]] = {kind: [] for kind in files}
    for _ in range(1 + REPEATS):
        for kind, data in files.items():
            start = time.perf_counter()
            decode(data, config, side_px)
            times[kind].append(time.perf_counter() - start)
    return {kind: one[1:] for kind, one in times.items()}


def _jpeg(profile: bytes) -> bytes:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    large = np.asarray(smooth.resize(SIZE_HW[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.normal(0, 6, (*SIZE_HW, 1)).round().astype(np.int16)
    image = Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, icc_profile=profile)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
