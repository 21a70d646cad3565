"""Load the tokenizer that belongs to a CLIP: open_clip's own, or one of Hugging Face."""

import gzip
import hashlib
import importlib.util
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_core.backbones.text.hugging_face import (
    fetch_files,
    files_in,
    load_hugging_face,
    rust_errors,
)
from schemas.errors import WeightsError

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT = 77
"""Tokens of a row where an architecture does not say: OpenAI's."""
_ENDS = 2
"""The tokens of start and end."""
_ENDS_OF_CLIPS = 3
"""Those, and a class token, in the mode `clips`."""
_MAX_VOCABULARY_BYTES = 64_000_000
"""Of an unpacked vocabulary; open_clip's own has 3 MB."""
PROMPTS_PER_FORWARD = 256
_LONG_S = 10
"""If the prompts after the first forward will take longer, it is said."""
_SHOWN = 5
_SHOWN_CHARS = 80
_PROBE = "Two Cats, a dog's häuser 猫 don\u2019t 3.5"
"""Its tokens differ where a version of transformers reads the same files differently."""


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a CLIP.

    Attributes:
        ids: returns token ids, int64 (number of texts, context length), cut off and filled up.
        counts: returns how many tokens each text has when it is not cut off, start and end
            included.
        pad_id: fills the rows of short texts.
        sha256: of the files that it was read from and of what it makes of them; empty: it comes
            with a package.
    """

    ids: Callable[[list[str]], Tensor]
    counts: Callable[[list[str]], list[int]]
    pad_id: int
    sha256: str = ""

    def prompt_ids(self, prompts: Sequence[str], num_tokens: int, weights_file: str) -> Tensor:
        """Return the token ids of prompts, checked; of those that are cut off, a warning.

        Args:
            prompts: texts.
            num_tokens: how many tokens the text encoder knows.
            weights_file: its file, for messages.

        Raises:
            WeightsError: the tokenizer is not that of the text encoder.
        """
        ids_PL = self.ids(list(prompts))
        self._warn_of_long(prompts, ids_PL)
        if int(ids_PL.max()) >= num_tokens or int(ids_PL.min()) < 0:
            raise WeightsError(
                f"the tokenizer of {weights_file} returns the token {int(ids_PL.max())}, but "
                f"the text encoder has {num_tokens}: it is the tokenizer of another CLIP"
            )
        return ids_PL

    def _warn_of_long(self, prompts: Sequence[str], ids_PL: Tensor) -> None:
        """Warn of prompts whose end the tokenizer has cut off, longest first."""
        limit = ids_PL.shape[1]
        full = [prompts[row] for row in self.full(ids_PL)]
        if not full:
            return
        counts = zip(self.counts(full), full, strict=True)
        cut = sorted((-count, prompt) for count, prompt in counts if count > limit)
        if cut:
            shown = [f"{prompt[:_SHOWN_CHARS]!r} ({-count})" for count, prompt in cut[:_SHOWN]]
            more = f" and {len(cut) - _SHOWN} more" if len(cut) > _SHOWN else ""
            logger.warning(
                "this CLIP reads %d tokens of a prompt; the end is cut off of %s%s: shorten the "
                "label or the template",
                limit,
                ", ".join(shown),
                more,
            )

    def full(self, ids_PL: Tensor) -> list[int]:
        """Return the rows that may have been cut off: those that are not filled up.

        The last token of a full row may be missing as well, as CLIPA takes the end off again.
        """
        return (ids_PL[:, -2:] != self.pad_id).any(dim=1).nonzero().flatten().tolist()


def embed_in_parts(ids_PL: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `embed` of the token ids of P prompts, `PROMPTS_PER_FORWARD` at a time.

    While those that are left will take long, the log says after each part how many seconds.

    Args:
        ids_PL: on the network's device.
        embed: from ids to embeddings (P, D).
    """
    began_s, total = time.perf_counter(), len(ids_PL)
    parts, num_done = [], 0
    for part_PL in ids_PL.split(PROMPTS_PER_FORWARD):
        parts.append(embed(part_PL))
        num_done += len(part_PL)
        left_s = (time.perf_counter() - began_s) * (total / num_done - 1)
        if left_s > _LONG_S:
            logger.info("embedded %d of %d prompts: about %.0f s more", num_done, total, left_s)
    return torch.cat(parts)


def check_transformers(text_cfg: dict[str, Any], name: str) -> None:
    """Check that the package is installed that an architecture's text side needs, if any.

    Args:
        text_cfg: of open_clip.
        name: of the model, for messages.

    Raises:
        ImportError: it is not.
    """
    needed = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    if needed and importlib.util.find_spec("transformers") is None:
        raise ImportError(
            f"{name} takes its tokenizer from Hugging Face ({needed}), which needs the package "
            "transformers: pip install 'ovseg[hf]', or choose another CLIP"
        )


def load_tokenizer(text_cfg: dict[str, Any], folder: Path | None) -> Tokenizer:
    """Load the tokenizer of an architecture.

    Args:
        text_cfg: of open_clip, checked.
        folder: of the CLIP, where its own files lie; None: those of the hub, or open_clip's.

    Raises:
        OSError, ValueError, ImportError, ...: it cannot be loaded.
    """
    context_length: int = text_cfg.get("context_length", DEFAULT_CONTEXT)
    options: dict[str, Any] = text_cfg.get("tokenizer_kwargs") or {}
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return _of_open_clip(context_length, options, folder)
    files = fetch_files(name) if folder is None else files_in(folder)
    mode = text_cfg.get("tokenizer_mode")
    tokenizer, digest = load_hugging_face(
        files, context_length, {**options, "tokenizer_mode": mode}
    )
    pad_id = tokenizer.tokenizer.pad_token_id
    if pad_id is None:
        raise ValueError("the tokenizer has no pad_token: expected one in tokenizer_config.json")
    probe = _ids(tokenizer, [_PROBE])
    if probe.shape != (1, context_length):
        raise ValueError(f"the tokenizer does not fill {context_length} tokens")
    sha256 = hashlib.sha256(f"{digest} {probe.tolist()}".encode()).hexdigest()
    return Tokenizer(partial(_ids, tokenizer), partial(_counts, tokenizer), pad_id, sha256)


def _ids(tokenizer: Any, texts: list[str]) -> Tensor:
    with rust_errors():
        return tokenizer(texts)


def _counts(tokenizer: Any, texts: list[str]) -> list[int]:
    is_clips = tokenizer.tokenizer_mode == "clips"
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    with rust_errors():
        rows = tokenizer.tokenizer(cleaned, add_special_tokens=not is_clips, verbose=False)
    return [len(row) + is_clips * _ENDS_OF_CLIPS for row in rows["input_ids"]]


def _of_open_clip(context_length: int, options: dict[str, Any], folder: Path | None) -> Tokenizer:
    """Return open_clip's tokenizer, with a folder's own vocabulary where it has one."""
    from open_clip.tokenizer import SimpleTokenizer

    files = [] if folder is None else sorted(folder.glob("*.txt.gz"))
    own: dict[str, Any] = {}
    sha256 = ""
    if files:
        own["bpe_path"] = str(files[0])
        sha256 = hashlib.sha256(_unpacked(files[0])).hexdigest()
    tokenizer = SimpleTokenizer(context_length=context_length, **own, **options)

    def counts(texts: list[str]) -> list[int]:
        return [len(tokenizer.encode(text)) + _ENDS for text in texts]

    return Tokenizer(tokenizer, counts, 0, sha256)


def _unpacked(file: Path) -> bytes:
    """Return a packed vocabulary, unpacked up to a limit."""
    try:
        with gzip.open(file) as content:
            data = content.read(_MAX_VOCABULARY_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{file.name} is damaged: {error}") from error
    if not data:
        raise ValueError(f"{file.name} is empty: fetch it again")
    if len(data) > _MAX_VOCABULARY_BYTES:
        raise ValueError(f"{file.name} unpacks to more than {_MAX_VOCABULARY_BYTES:,} bytes")
    return data
