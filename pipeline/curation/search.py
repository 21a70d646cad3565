"""Images of a run that fit a text, or that are like an image, by cosine of CLIP's vectors.

The text is embedded by the very CLIP that made the run's vectors, in the templates of the run's
method; an image that is given is prepared and embedded as those of the run were.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ovseg_core import methods
from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.text.text_encoder import templates_of
from ovseg_core.images.batch import to_tensor
from ovseg_core.images.decoding.decode import decode
from pipeline.curation.images import AnnotatedImages
from pipeline.curation.with_vectors import of_vectors, vector_batches
from pipeline.review.try_session import RunBackbones
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.run.trust.named_weights import NamedWeights
from pipeline.run.vectors import CLIP_ROLE, vector_clip
from pipeline.storage import uris, weights
from pipeline.storage.folder import read_image_file
from pipeline.storage.places import ImagePlaces
from pipeline.storage.waiting import waiting
from schemas import plugins
from schemas.config import JobConfig
from schemas.errors import UserError, WeightsError

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_DEFAULT_TEMPLATES = "diy"


class SearchResult(NamedTuple):
    """Images by falling cosine.

    Attributes:
        places: of `AnnotatedImages`.
        cosines: of each with what was searched for.
        num_searched: images that have a vector.
    """

    places: NDArray[np.int64]
    cosines: NDArray[np.float32]
    num_searched: int


def search_text(
    images: AnnotatedImages, text: str, count: int, given_weights: Sequence[str] = ()
) -> SearchResult:
    """Return the images that fit a text best.

    Args:
        images: of the run.
        text: a phrase, such as `yellow star`; it is put into the templates of the run's vocabulary,
            or of its method, or `a photo of a {}`.
        count: of images.
        given_weights: names of weights that may be loaded though this machine has not used them.

    Raises:
        UserError: no image has a vector, or the text is empty.
        WeightsError: the run's CLIP cannot be had, or may not be loaded.
    """
    check_words(text)
    clip = _clip(images.run, given_weights)
    with waiting(f"embed {text.strip()!r} as CLIP does"):
        vector_D = text_vector(images.run, clip, text)
    return _nearest(images, vector_D, count)


def check_words(text: str) -> None:
    """Check that there is something to search for.

    Raises:
        UserError: the text is empty.
    """
    if not text.strip():
        raise UserError('expected words to search for, such as "yellow star", got none')


def text_vector(run: RunFolder, clip: Clip, text: str) -> NDArray[np.float32]:
    """Return the unit vector (D,) of a text, for cosines with the vectors of a run.

    Args:
        run: says the templates, and which CLIP made its vectors.
        clip: that CLIP.
        text: a phrase, such as `yellow star`.

    Raises:
        UserError: the run has no vectors.
        WeightsError: another CLIP made them.
    """
    _check_clip(run, clip)
    job = run.info.job()
    templates = job.vocabulary.templates or _templates(job)
    prompts = [template.replace("{}", text.strip()) for template in templates]
    with torch.inference_mode():  # as a row of the text matrix, docs/methods.md 1.5
        units_PD = F.normalize(clip.encode_text(prompts), dim=-1)
        return F.normalize(units_PD.mean(dim=0), dim=-1).float().cpu().numpy()


def search_image(
    images: AnnotatedImages, image: str, count: int, given_weights: Sequence[str] = ()
) -> SearchResult:
    """Return the images that are most like an image; the image itself, if it is one of the run.

    Args:
        images: of the run.
        image: its path in the run, whose vector is there; else the path or URL of a file.
        count: of images.
        given_weights: see `search_text`; an image of the run needs none.

    Raises:
        ImageError: the file cannot be read or decoded.
        UserError: no image has a vector.
        WeightsError: the run's CLIP cannot be had, or may not be loaded.
    """
    is_in_run = compute.index(images.paths, image).as_py() >= 0
    for batch in vector_batches(images.run):
        if not is_in_run:
            break  # a file, and there are vectors to compare it with
        if image in batch.paths:
            vector = batch.vectors_ND[batch.paths.index(image)]
            return _nearest(images, vector.astype(np.float32), count)
    config, place = RunImages(images.run).config, uris.normalise(image)
    own = ImagePlaces.of_own(place, allow_private=images.run.confirmed.allow_private)
    data = read_image_file(place, own, config.max_bytes)
    clip = _clip(images.run, given_weights)
    with torch.inference_mode():
        vector_1D = clip.image_vectors([to_tensor(decode(data, config, clip.input_px).rgb)])
    return _nearest(images, vector_1D[0].numpy(), count)


def _clip(run: RunFolder, given_weights: Sequence[str]) -> Clip:
    """Return the CLIP of a run's vectors, which is loaded only as a page would load it."""
    _ = vector_clip(run)  # before anything is loaded
    job = methods.with_published_clip(run.info.job())
    backbones = RunBackbones.from_config(job, "cpu", weights.resolve)
    backbones.of_run = NamedWeights(given_weights, run, "search")
    with waiting("load CLIP"):
        clip = backbones.clip
    _check_clip(run, clip)
    return clip


def _check_clip(run: RunFolder, clip: Clip) -> None:
    made_by = vector_clip(run)
    if weights.weights_sha256(clip.weights_file) != made_by.weights[CLIP_ROLE]:
        raise WeightsError(
            f"{clip.weights_file} is not the CLIP that made the vectors of {run.folder.uri}: "
            "no text can be compared with them"
        )


def _templates(job: JobConfig) -> tuple[str, ...]:
    options = plugins.read_nested_options(methods.PACKAGE, job.method, "method")[0].options
    return templates_of(getattr(options, "templates", _DEFAULT_TEMPLATES))


def _nearest(images: AnnotatedImages, vector_D: NDArray[np.float32], count: int) -> SearchResult:
    with waiting(f"compare with the vectors of {images.run.folder.uri}"):
        places, cosines = of_vectors(images, lambda some_ND: some_ND.astype(np.float32) @ vector_D)
    best = np.lexsort((places, -cosines))[:count]
    return SearchResult(places[best], cosines[best], len(places))
