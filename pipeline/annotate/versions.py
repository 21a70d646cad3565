"""Versions of the libraries through which an image goes on its way to pixels and scores.

A run is one with the same libraries from its first image to its last: what `COMPARED` lists is part
of the run's identity, by as many of a version's numbers as can change a result; further numbers
are repairs. All versions are recorded in `run.yaml`, with all their numbers.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata

COMPARED = {
    "ovseg": 2, "pillow": 2, "opencv-python-headless": 2, "torch": 2, "open_clip_torch": 2,
    "timm": 3, "diffusers": 2, "scikit-image": 2,
    "libjpeg": 2, "libwebp": 2, "libavif": 2, "openjpeg": 2, "littlecms2": 2,
}  # fmt: skip
"""Numbers of a version that are compared. timm has released everything as 1.0.x since 2024."""
_RECORDED = (
    "numpy", "torchvision", "scipy", "scikit-learn", "transformers", "tokenizers", "safetensors",
    "ray", "pyarrow", "pycocotools", "fsspec", "pillow-heif", "pillow-jxl-plugin",
)  # fmt: skip
_IN_PILLOW = {
    "libwebp": "webp", "libavif": "avif", "openjpeg": "jpg_2000", "littlecms2": "littlecms2",
    "libtiff": "libtiff", "zlib": "zlib",
}  # fmt: skip
"""Libraries that Pillow is built with, by the name that `PIL.features` has for them."""
_CLIP_ROLE = "clip"
_ONLY_WITH = {"scikit-image": "superpixels"}
"""The role of a part without which a library counts for nothing."""


def installed_versions() -> dict[str, str]:
    """Return the versions of all libraries that `run.yaml` records, those that are installed."""
    return dict(_installed_versions())


@cache  # a worker asks twice, and each package has a file to parse
def _installed_versions() -> Mapping[str, str]:
    # Here, as only a process that annotates needs them.
    import cv2
    from PIL import features

    versions = {}
    for package in (*COMPARED, *_RECORDED):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # Under any of its names on the package index.
    versions["opencv-python-headless"] = cv2.__version__
    turbo = features.version("libjpeg_turbo")
    versions["libjpeg"] = f"turbo {turbo}" if turbo else str(features.version("jpg") or "none")
    versions |= {name: str(features.version(key) or "none") for name, key in _IN_PILLOW.items()}
    return versions


def compared_versions(roles: Collection[str]) -> dict[str, str]:
    """Return the versions that are part of a run's identity, cut to the numbers that count.

    Args:
        roles: of the weights in use, also of their settings (`clip.activation`); timm and
            diffusers count only where a second network is, others only where their part is.
    """
    parts = {role.partition(".")[0] for role in roles}
    unused = {package for package, part in _ONLY_WITH.items() if part not in parts}
    if parts <= {_CLIP_ROLE, *_ONLY_WITH.values()}:
        unused |= {"timm", "diffusers"}
    return {
        package: _first_numbers(version, COMPARED[package])
        for package, version in installed_versions().items()
        if package in COMPARED and package not in unused
    }


def _first_numbers(version: str, count: int) -> str:
    """Return `turbo 3.2` for (`turbo 3.2.0`, 2)."""
    found = re.match(rf"\D*\d+(\.\d+){{0,{count - 1}}}", version)
    return found.group() if found else version
