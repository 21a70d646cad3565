"""Which labels compete in an image, and what becomes of the others' scores."""

import numpy as np
import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.dense.scoring import class_token_cosines, top_label_rows
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import TextMatrix, encode_images
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.window_methods import LAST_BLOCK_METHODS, WORDS


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def test_top_label_rows_by_the_best_window_of_the_best_phrase() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn((9, 8), generator=generator), dim=1)
    text = TextMatrix(rows, torch.tensor([0, 1, 1, 2, 3, 3, 4, 5, 6]), 7)
    embeddings = torch.randn((4, 8), generator=generator)
    competes = top_label_rows(embeddings, text, logit_scale=10.0, k=2)
    cosines = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy() @ rows.numpy().T
    odds = np.exp(10 * cosines)
    best = (odds / odds.sum(1, keepdims=True)).max(0)
    of_class = [best[text.class_index_Q.numpy() == k].max() for k in range(7)]
    kept = {0, *(1 + np.argsort(of_class[1:])[::-1][:2])}
    assert competes.tolist() == [int(k) in kept for k in text.class_index_Q]


@pytest.mark.parametrize("name", LAST_BLOCK_METHODS)
@pytest.mark.parametrize("global_attention", [False, True])
def test_labels_beyond_the_top_k_win_no_pixel(
    name: str, global_attention: bool, backbones: Backbones
) -> None:
    images = [random_image(0, 60, 100), random_image(1, 100, 60)]
    words = Vocabulary.model_validate({"labels": [*WORDS.names], "background": []})
    sizes = [(60, 100), (100, 60)]
    found = {}
    for k in (0, 1, 4, 1000):
        options = {"top_k_labels": k, "global_attention": global_attention, "pamr_steps": 0}
        segmenter = build_segmenter(NamedOptions(name=name, options=options), backbones)
        features = encode_images(segmenter, images)
        maps = segmenter.score(features, segmenter.text_matrix(words))
        found[k] = [one.label_map for one in decide(maps, sizes)]
    for index in range(2):
        assert len(np.unique(found[1][index])) == 1
        for every in (4, 1000):
            assert np.array_equal(found[every][index], found[0][index])


def test_class_token_cosines_need_class_tokens() -> None:
    text = TextMatrix(torch.eye(3), torch.arange(3), 3)
    with pytest.raises(ValueError, match="needs class tokens"):
        class_token_cosines(DenseFeatures(torch.ones(1, 3, 2, 2)), text)
