"""Read the tokenizer of a CLIP from files of Hugging Face, by transformers (the extra `hf`).

`transformers` imports Python files that such a folder names in `auto_map`, and takes any key of
its JSON files as an argument. So it never gets the folder itself, but a copy of the files that are
known here, with the keys that are known here.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovseg_core.backbones.checkpoint import hub_file

logger = logging.getLogger(__name__)

_SETTINGS, _SPECIAL, _MODEL = "tokenizer_config.json", "special_tokens_map.json", "config.json"
_CLASS_OF_FILE = {
    "tokenizer.json": "PreTrainedTokenizerFast",
    "vocab.txt": "BertTokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "spiece.model": "T5Tokenizer",
    "tokenizer.model": "LlamaTokenizer",
    "vocab.json": "CLIPTokenizer",
}
"""Vocabularies, and the class that reads them where nothing names one."""
_VOCABULARIES = (*_CLASS_OF_FILE, "merges.txt", "added_tokens.json")
_MAX_FILE_BYTES = {
    **dict.fromkeys(_VOCABULARIES, 200_000_000),
    **dict.fromkeys((_SETTINGS, _SPECIAL, _MODEL), 16_000_000),
}
"""Largest size by name; other files are never read."""

_CLASSES = {
    *("Albert", "Bert", "CLIP", "Camembert", "DebertaV2", "DistilBert", "Electra", "GPT2", "Gemma"),
    *("Llama", "MPNet", "MT5", "Nllb", "Roberta", "Siglip", "T5", "XLMRoberta", "PreTrained"),
}
"""Names of tokenizer classes up to `Tokenizer` or `TokenizerFast`."""
_BACKEND = "TokenizersBackend"
"""The name of `PreTrainedTokenizerFast` since transformers 5."""
_MODEL_TYPES = {
    *("albert", "bert", "camembert", "clip", "deberta-v2", "distilbert", "electra", "gemma"),
    *("gpt2", "m2m_100", "mpnet", "mt5", "roberta", "siglip", "t5", "xlm-roberta"),
}
"""Values of `model_type` from which transformers finds the class."""
_SPECIAL_TOKENS = {
    *("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"),
    *("additional_special_tokens", "extra_special_tokens"),
}
_USED = _SPECIAL_TOKENS | {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "clean_text"),
    *("clean_up_tokenization_spaces", "do_basic_tokenize", "do_lower_case", "errors", "extra_ids"),
    *("keep_accents", "language_codes", "legacy", "legacy_behaviour", "model_input_names"),
    *("model_max_length", "padding_side", "remove_space", "split_special_tokens", "src_lang"),
    *("strip_accents", "tgt_lang", "tokenize_chinese_chars", "trim_offsets", "truncation_side"),
}
_WITHOUT_EFFECT = {
    *("backend", "chat_template", "is_local", "max_length", "merges_file", "name_or_path"),
    *(
        "never_split",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "processor_class",
        "sp_model_kwargs",
    ),
    *("special_tokens_map_file", "stride", "tokenizer_class", "tokenizer_file", "truncation"),
    *("truncation_strategy", "vocab_file", "use_fast"),
}
"""Keys that people have and that change no token here: places of files, conversations, batches."""
_MAX_EXTRA_IDS = 1000
_MAX_NAMES = 5


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that say how to tokenize, by name."""
    return {name: folder / name for name in _MAX_FILE_BYTES if (folder / name).is_file()}


def fetch_files(repository: str) -> dict[str, Path]:
    """Return the files of a repository of the hub that say how to tokenize, by name.

    Raises:
        OSError: the hub cannot be reached and nothing is cached.
        ValueError: no name of a repository.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    found: dict[str, Path] = {}
    for name in _MAX_FILE_BYTES:
        try:
            found[name] = Path(hub_file(repository, name))
        except EntryNotFoundError:
            continue
        except OSError:
            # The cache also knows which files a repository does not have.
            if try_to_load_from_cache(repository, name) is None:
                raise
    return found


def load_hugging_face(
    files: Mapping[str, Path], context_length: int, options: Mapping[str, Any]
) -> tuple[Any, str]:
    """Load a tokenizer; no code that its files name is run.

    Args:
        files: as `files_in` and `fetch_files` return them.
        context_length: tokens of a row.
        options: of open_clip's `HFTokenizer`.

    Returns:
        The `HFTokenizer`, and the SHA-256 (hex) of all that it was made from.

    Raises:
        ValueError: no vocabulary, code of their own, a class that is not known here.
        OSError, ImportError, RuntimeError, TypeError, ...: transformers cannot read the files.
    """
    from open_clip.tokenizer import HFTokenizer
    from transformers import AutoConfig, PretrainedConfig

    content = {name: _read(path, _MAX_FILE_BYTES[name]) for name, path in files.items()}
    model = _parsed(content.pop(_MODEL, b"{}"), _MODEL)
    settings = _parsed(content.get(_SETTINGS, b"{}"), _SETTINGS)
    special = _parsed(content.get(_SPECIAL, b"{}"), _SPECIAL)
    kind = str(model.get("model_type"))
    name = settings.get("tokenizer_class") or model.get("tokenizer_class")
    if name is None and kind not in _MODEL_TYPES:
        name = next((one for file, one in _CLASS_OF_FILE.items() if file in content), None)
    if name is not None:
        _check_class(name)
        settings["tokenizer_class"] = name
    settings.setdefault("clean_up_tokenization_spaces", False)  # of decoding; versions differ
    content[_SETTINGS] = json.dumps(settings, sort_keys=True).encode()
    content[_SPECIAL] = json.dumps(
        {key: value for key, value in special.items() if key in _SPECIAL_TOKENS}, sort_keys=True
    ).encode()
    if not content.keys() & _CLASS_OF_FILE.keys():
        raise ValueError(f"there is no vocabulary: expected {', '.join(_CLASS_OF_FILE)}")
    config = AutoConfig.for_model(kind) if kind in _MODEL_TYPES else PretrainedConfig()
    digest = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ovseg-tokenizer-") as folder, rust_errors():
        for name, data in content.items():
            (Path(folder) / name).write_bytes(data)
        tokenizer = HFTokenizer(
            folder,
            context_length,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    return tokenizer, digest


@contextmanager
def rust_errors() -> Iterator[None]:
    """Raise ValueError where the library below transformers panics: that is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(f"the tokenizer's files are damaged ({error})") from error
        raise


def _read(path: Path, max_bytes: int) -> bytes:
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path.name} has {size:,} bytes, expected at most {max_bytes:,}")
    return path.read_bytes()


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    """Return the known keys of a JSON file."""
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds a {type(content).__name__}, expected `key: value` pairs")
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if content.get(key):
            raise ValueError(
                f"{name} names code of its own ({key}), which is never run here: remove that key "
                "if the tokenizer is one of transformers' own, or choose another CLIP"
            )
    if name != _SETTINGS:
        return content
    unknown = sorted(content.keys() - _USED - _WITHOUT_EFFECT)
    if unknown:
        more = ", ..." if len(unknown) > _MAX_NAMES else ""
        logger.warning("%s: not used here: %s%s", name, ", ".join(unknown[:_MAX_NAMES]), more)
    extra_ids = content.get("extra_ids", 0)
    if not isinstance(extra_ids, int) or not 0 <= extra_ids <= _MAX_EXTRA_IDS:
        raise ValueError(f"{name}: extra_ids is {extra_ids}, expected 0 to {_MAX_EXTRA_IDS}")
    return {key: value for key, value in content.items() if key in _USED | {"tokenizer_class"}}


def _check_class(name: object) -> None:
    stem = str(name).removesuffix("Fast").removesuffix("Tokenizer")
    if name != _BACKEND and (stem not in _CLASSES or "Tokenizer" not in str(name)):
        raise ValueError(
            f"tokenizer_class is {name!r}, expected one of {', '.join(sorted(_CLASSES))} with "
            "`Tokenizer` or `TokenizerFast`"
        )
