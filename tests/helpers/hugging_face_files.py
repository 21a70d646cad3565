"""Tiny tokenizers in the files of Hugging Face, as CLIPA and MetaCLIP 2 have them."""

import json
import string
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from tests.helpers.tiny_models import TINY_CLIP, write_clip

NUM_TOKENS = 64
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "of", "photo", "##s"]
_LETTERS = string.ascii_lowercase
_BERT = [*_WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS if letter != "s")]
_UNIGRAM = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁cat", "▁dog", *_LETTERS]


def write_bert_tokenizer(folder: Path, **settings: Any) -> Path:
    """As `bert-base-uncased`: word pieces, filled up with 0."""
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(_BERT)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {f"{it}_token": f"[{it.upper()}]" for it in ("pad", "unk", "cls", "sep")}
    return _write(folder, tokenizer, {"tokenizer_class": "BertTokenizer", **tokens, **settings})


def write_xlm_tokenizer(folder: Path, **settings: Any) -> Path:
    """As `facebook/xlm-v-base`: unigrams, filled up with 1."""
    tokenizer = tokenizers.Tokenizer(models.Unigram([(it, -1.0) for it in _UNIGRAM], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokens = {f"{it}_token": f"<{it}>" for it in ("pad", "unk")}
    tokens |= {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", **tokens, **settings}
    return _write(folder, tokenizer, settings)


def write_clipa(folder: Path, **text_cfg: Any) -> Path:
    """A tiny CLIPA: mean of the patches, text pooled at the last token, BERT's tokenizer."""
    vision = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    text = {
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "pool_type": "last",
        "no_causal_mask": True,
    }
    write_bert_tokenizer(folder)
    return _write_clip(folder, vision, {**text, **text_cfg})


def write_metaclip2(folder: Path, **text_cfg: Any) -> Path:
    """A tiny MetaCLIP 2: text pooled at its end, the tokenizer of XLM-V."""
    text = {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2}
    write_xlm_tokenizer(folder)
    return _write_clip(folder, {}, {**text, **text_cfg})


def _write(folder: Path, tokenizer: Any, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _write_clip(folder: Path, vision: dict[str, Any], text: dict[str, Any]) -> Path:
    text = {**TINY_CLIP["text_cfg"], "context_length": 10, "vocab_size": NUM_TOKENS, **text}
    config = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}, "text_cfg": text}
    write_clip(folder, config)
    (folder / "bpe.txt.gz").unlink()
    return folder
