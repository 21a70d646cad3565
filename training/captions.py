"""Captions of the drawn scenes: tokeniser file, templates, and a table of all captions."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor

from jobs.demo.paint import COLOURS, PATTERNS
from jobs.demo.shapes import SHAPES

CONTEXT = 16
PLAIN_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "{}",
    "a {}",
    "the {}",
    "a picture of a {}",
    "an image of a {}",
    "there is a {} in the scene.",
    "a photo of a {} in the scene.",
)
TEMPLATES: tuple[str, ...] = PLAIN_TEMPLATES + tuple(f("{}") for f in OPENAI_IMAGENET_TEMPLATES)
"""Most captions have a plain template, the rest one of OpenAI's 80 for ImageNet as well."""
BACKGROUND_CAPTIONS: tuple[str, ...] = (
    "a photo of a background",
    "background",
    "a photo of the background",
    "an empty background",
    "nothing",
    "a photo of nothing",
)
NOT_NAMED = -1


def _used_merges(words: set[str], tokenizer: SimpleTokenizer) -> set[tuple[str, str]]:
    """Return the byte-pair merges that these words need."""
    used: set[tuple[str, str]] = set()
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda p: tokenizer.bpe_ranks.get(p, 1 << 30))
            if best not in tokenizer.bpe_ranks:
                break
            used.add(best)
            merged: list[str] = []
            while pieces:
                if len(pieces) > 1 and (pieces[0], pieces[1]) == best:
                    merged.append(pieces.pop(0) + pieces.pop(0))
                else:
                    merged.append(pieces.pop(0))
            pieces = merged
    return used


def write_bpe(path: Path) -> int:
    """Write a merges file with only the needed merges, for `get_tokenizer(..., bpe_path=)`.

    Returns:
        The vocabulary size: 512 bytes, the merges, two special tokens.
    """
    full = SimpleTokenizer(default_bpe())
    texts = [t.format("") for t in TEMPLATES] + list(BACKGROUND_CAPTIONS)
    texts += [*SHAPES, *COLOURS, *PATTERNS, "thing things pattern color colour shape object"]
    words = {w.strip(".,'\"()") for text in texts for w in text.lower().split()} - {""}
    used = _used_merges(words, full)
    merges = [" ".join(m) for m in sorted(used, key=full.bpe_ranks.__getitem__)]
    # mtime 0, so that the bytes are reproducible.
    path.write_bytes(gzip.compress("\n".join(["#version: ovseg", *merges]).encode(), mtime=0))
    return 512 + len(merges) + 2


class Captions:
    """All captions as tokens, looked up by attribute indices.

    Attributes:
        table: (T, 13, 9, 5, CONTEXT) int32: template, shape + 1, colour + 1, pattern + 1.
        empty: (6, CONTEXT): captions of an image without objects.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        phrases = [
            " ".join(word for word in (colour, pattern, shape) if word)
            for shape in ("thing", *SHAPES)
            for colour in ("", *COLOURS)
            for pattern in ("", *PATTERNS)
        ]
        texts = [template.format(phrase) for template in TEMPLATES for phrase in phrases]
        tokens = tokenizer(texts, context_length=CONTEXT).int()
        self.table = tokens.view(len(TEMPLATES), 13, 9, 5, CONTEXT)
        self.empty = tokenizer(list(BACKGROUND_CAPTIONS), context_length=CONTEXT).int()

    def tokens(self, words: Tensor, is_empty: Tensor, rng: torch.Generator) -> Tensor:
        """Return one caption per row, in a random template.

        Args:
            words: (B, 3) shape, colour, pattern, -1 where not named.
            is_empty: (B,) bool: images without objects.
            rng: for the templates.

        Returns:
            (B, CONTEXT) int64.
        """
        count = len(words)
        plain = torch.rand(count, generator=rng) < 0.65
        template = torch.where(
            plain,
            torch.randint(len(PLAIN_TEMPLATES), (count,), generator=rng),
            torch.randint(len(TEMPLATES), (count,), generator=rng),
        )
        index = words.clamp_min(NOT_NAMED) + 1
        found = self.table[template, index[:, 0], index[:, 1], index[:, 2]]
        empty = self.empty[torch.randint(len(self.empty), (count,), generator=rng)]
        return torch.where(is_empty[:, None], empty, found).long()


def choose_words(attrs: Tensor, colour_known: Tensor, rng: torch.Generator) -> Tensor:
    """Drop some words at random: shape is kept in 90%, colour in 65%, pattern in 55%.

    Args:
        attrs: (B, 3) of the named object.
        colour_known: (B,) bool.
        rng: for the choice.
    """
    named = torch.rand(len(attrs), 3, generator=rng) < torch.tensor([0.9, 0.65, 0.55])
    named[:, 1] &= colour_known
    named[:, 0] |= ~named.any(1)
    return torch.where(named, attrs, torch.full_like(attrs, NOT_NAMED))
