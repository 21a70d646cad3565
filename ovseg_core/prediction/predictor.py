"""Masks in Python: what a job does with an image, in this process and without a run folder.

    import ovseg_core as ov

    segmenter = ov.load("clip_diy")
    result = segmenter("photo.jpg", ["cat", "dog"])
    result.plot().save("masks.png")

Pixels, networks, decision and run lengths are those of a job with the same settings.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, overload
from urllib.parse import urlsplit

import torch
import yaml
from cachetools import LRUCache

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.embedded import EMBEDDED_NOTE
from ovseg_core.images.batch import ImageBatch, to_tensor
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.methods import build_segmenter, needed_files, with_published_clip
from ovseg_core.prediction.inputs import (
    ImageInput,
    content_key,
    is_drawn_scene,
    name_of,
    pixels_of,
)
from ovseg_core.prediction.prediction import Prediction
from ovseg_core.segmenter import Features, Segmenter, TextMatrix, check_finite, encode_images
from schemas.base import validated
from schemas.config import SegmenterConfig
from schemas.errors import ConfigError, WeightsError
from schemas.vocabulary import Vocabulary, spelled_out_vocabulary

logger = logging.getLogger(__name__)

Words = str | Sequence[str] | Mapping[str, Any] | Vocabulary
"""The labels: words, comma-separated words, or all that `vocabulary` of a job file may be."""

_WITHOUT_NETWORK = "docs/python.md#without-a-network"
_MODEL_SETTING = re.compile(r"--set (clip|vision)\.model=(\S+)")
_IMAGES_KEPT = 16
_VOCABULARIES_KEPT = 8


def load(
    method: str | Mapping[str, Any] = "clip_diy",
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 8,
    **settings: Any,
) -> "Predictor":
    """Return a method with its networks loaded.

    Args:
        method: a name (`ovseg methods` lists them), or `{"name": ..., "options": {...}}`.
        device: `auto` is the GPU where there is one.
        batch_size: images that are encoded at once.
        settings: as in a job file: `clip`, `vision`, `image`, `masks`, `calibration`, `compute`;
            for `clip` and `vision` the name of a model alone, such as `clip="embedded"`.

    Raises:
        ConfigError: an unknown method, setting or option, or a wrong value.
        WeightsError: weights that cannot be found, fetched or used.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
    calibration = settings.get("calibration")
    if isinstance(calibration, str | os.PathLike):
        settings["calibration"] = _calibration(calibration)
    named = dict(method) if isinstance(method, Mapping) else method
    config = validated(SegmenterConfig, {"method": named, **settings})
    config = with_published_clip(config)
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu or cuda, got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: no GPU is visible to torch here; use `auto` or `cpu`")
    try:
        backbones = Backbones.from_config(config, device, _local_weights, config.compute)
        segmenter = build_segmenter(config.method, backbones, config.masks)
    except WeightsError as error:
        if "--set " not in str(error):
            raise
        lines = [_MODEL_SETTING.sub(r"\1='\2' in ov.load", line) for line in error.lines]
        raise type(error)(*lines, *_in_python(config)) from None
    return Predictor(segmenter, config, batch_size)


@dataclass(frozen=True)
class _Encoded:
    """A batch of images with their features."""

    images: tuple[DecodedImage, ...]
    features: Features


class Predictor:
    """A loaded method that is called with images and words; `load` makes it.

    The features of the last images are kept, so that other words on them cost a fraction of the
    first ones.

    Args:
        segmenter: the method.
        config: how images are decoded and masks cut.
        batch_size: images that are encoded at once.
    """

    def __init__(
        self, segmenter: Segmenter[Any], config: SegmenterConfig, batch_size: int = 8
    ) -> None:
        self.config = config
        self._segmenter = segmenter
        self._batch_size = batch_size
        self._has_cautioned = not config.uses_embedded_models
        self._texts: LRUCache[Vocabulary, TextMatrix] = LRUCache(_VOCABULARIES_KEPT)
        self._encoded: LRUCache[tuple[str, ...], _Encoded] = LRUCache(
            max(_IMAGES_KEPT, batch_size), getsizeof=lambda batch: len(batch.images)
        )

    def __repr__(self) -> str:
        return f"Predictor({self.config.method.name!r}, clip={self.config.clip.model!r})"

    @overload
    def __call__(self, images: ImageInput, words: Words) -> Prediction: ...
    @overload
    def __call__(self, images: Sequence[ImageInput], words: Words) -> list[Prediction]: ...
    def __call__(
        self, images: ImageInput | Sequence[ImageInput], words: Words
    ) -> Prediction | list[Prediction]:
        """Return the masks of words on an image, or on each image of a list.

        Args:
            images: one image, or a list or tuple of images of any sizes. For more than fit into
                memory run `ovseg annotate`.
            words: the labels; every pixel gets the most likely of them, or background.

        Raises:
            UserError: something else than an image was given, or the vocabulary is not valid.
            ImageError: an image cannot be read or decoded; the message names it.
        """
        vocabulary = validated(Vocabulary, _plain(words), "words")
        if isinstance(images, list | tuple):
            return list(self._predict(images, vocabulary))
        return next(self._predict([cast(ImageInput, images)], vocabulary))

    @torch.inference_mode()
    def _predict(
        self, images: Sequence[ImageInput], vocabulary: Vocabulary
    ) -> Iterator[Prediction]:
        if vocabulary not in self._texts:
            self._texts[vocabulary] = self._segmenter.text_matrix(vocabulary)
        text = self._texts[vocabulary]
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            encoded = self._encode(batch)
            maps = self._segmenter.score(encoded.features, text)
            check_finite((maps.levels, maps.objectness), "scores")
            for index, (given, image) in enumerate(zip(batch, encoded.images, strict=True)):
                size_hw = image.height, image.width
                masks = image_rows(
                    decide_one(maps, index, size_hw),
                    size_hw,
                    vocabulary.names,
                    self.config.masks,
                    self.config.calibration,
                )
                yield Prediction(name_of(given), vocabulary.names, size_hw, masks, image.rgb)

    def _encode(self, batch: Sequence[ImageInput]) -> _Encoded:
        key = tuple(map(content_key, batch))
        if key in self._encoded:
            return self._encoded[key]
        side_px = self._segmenter.decode_side_px
        images = tuple(pixels_of(image, self.config.image, side_px) for image in batch)
        pixels = [to_tensor(image.rgb) for image in images]
        paths = [name_of(image) for image in batch]
        if not self._has_cautioned and not all(map(is_drawn_scene, batch)):
            self._has_cautioned = True
            logger.warning("%s", EMBEDDED_NOTE)
        features = encode_images(self._segmenter, ImageBatch(tuple(pixels), tuple(paths)))
        self._encoded[key] = _Encoded(images, features)
        return self._encoded[key]


def _in_python(config: SegmenterConfig) -> Iterator[str]:
    """Yield which weights are missing, and how `load` takes them."""
    with suppress(WeightsError):  # a name of no network: the first line says so
        files = needed_files(config, _place_if_here)
        missing = [file.network for file in files if file.is_missing]
        if len(missing) > 1:
            yield f"not on this machine: {', '.join(missing)}"
    yield (
        f"all that the method may need: ov.load({{'name': '{config.method.name}', 'options': "
        "{...}}, clip='local-dir:FOLDER', vision='local-dir:FOLDER') "
        f"({_WITHOUT_NETWORK})"
    )


def _plain(words: Words) -> Any:
    """Return a vocabulary as a mapping of plain values."""
    if isinstance(words, Vocabulary):
        return words
    return spelled_out_vocabulary(dict(words) if isinstance(words, Mapping) else words)


def _calibration(path: str | os.PathLike[str]) -> Any:
    """Return what the file of `ovseg calibrate` holds."""
    try:
        return yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"calibration: {os.fspath(path)} cannot be read: {reason}") from error


def _local_weights(name: str) -> str:
    """Return the local path of weights; a URL is fetched once into torch.hub's folder.

    Args:
        name: a path or any other name, returned as it is, or an http(s) URL, at whose end
            `#sha256=<64 hex digits>` pins the content.
    """
    place = _place_of(name)
    if "://" not in name:
        return place
    address = urlsplit(name)
    if address.scheme not in ("http", "https"):
        raise WeightsError(f"{name}: expected a path or an http(s) URL; fetch it, give its path")
    if not Path(place).exists():
        url, digest = address._replace(fragment="").geturl(), address.fragment
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, place, digest.removeprefix("sha256=") or None, progress=False
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: another SHA-256
            raise WeightsError(
                f"cannot fetch weights {url}: {error}; fetch the file elsewhere and give its path "
                f"({_WITHOUT_NETWORK})"
            ) from None
    return place


def _place_of(name: str) -> str:
    """Return where weights lie on this machine, or will; of an URL in torch.hub's folder."""
    if "://" not in name:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    folder = Path(torch.hub.get_dir()) / "ovseg" / hashlib.sha256(name.encode()).hexdigest()[:16]
    return str(folder / (Path(urlsplit(name).path).name or "weights"))


def _place_if_here(name: str) -> str:
    place = _place_of(name)
    return place if Path(place).exists() else ""
