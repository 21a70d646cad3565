"""The tiny models of the package, described in MODEL_CARD.md and made by `training/`."""

from pathlib import Path

_FOLDER = Path(__file__).parent

EMBEDDED_NOTE = (
    "embedded models: the masks mean something on drawn scenes only, as `ovseg demo` draws them, "
    "and nothing on photographs; without `embedded` the method's own weights are used"
)
SCENE_MARK = "ovseg-scene"
"""Key of a text near the start of the PNG files of drawn scenes."""
SCENE_HEAD_BYTES = 1024
"""The mark lies within so many bytes."""

CLIP_FOLDER = _FOLDER / "clip"
"""open_clip `local-dir:` folder; its byte-pair file is the `*.txt.gz` beside the weights."""
VISION_FOLDER = _FOLDER / "vit"
"""timm `local-dir:` folder: config.json and model.safetensors."""
FOUND_HEAD = _FOLDER / "found" / "head.safetensors"
"""FOUND head of the second network: decoder.weight (1, C, 1, 1), decoder.bias (1)."""
SAM_FOLDER = _FOLDER / "sam"
"""Folder of transformers: config.json, model.safetensors and the image processor's settings."""
DINOISER_HEADS = _FOLDER / "dinoiser" / "heads.safetensors"
"""CLIP-DINOiser's convolutions on the embedded CLIP: obj_proj (E, C, 3, 3), bkg_decoder."""
