"""What open_clip is told of an architecture (`model_cfg`): keys and sizes that are taken.

`open_clip_config.json` comes from whoever made the folder, and its keys become arguments of
open_clip, timm and transformers. So an unknown key, or a size that no CLIP has, is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, ValidationError

from ovseg_core.backbones.text.tokenizer import check_transformers
from schemas.base import Frozen, problems
from schemas.errors import WeightsError

CONFIG = "open_clip_config.json"

_Count = Annotated[StrictInt, Field(ge=1, le=8192)]
_Number = Annotated[StrictFloat | StrictInt, Field(ge=-1000, le=1000)]


class _NormOptions(Frozen):
    eps: Annotated[StrictFloat, Field(gt=0, le=1)] = 1e-5


class _ActivationOptions(Frozen):
    approximate: Literal["none", "tanh"] = "none"


class _Transformer(Frozen):
    width: _Count = 512
    layers: Annotated[StrictInt, Field(ge=1, le=256)] = 12
    mlp_ratio: Annotated[StrictFloat | StrictInt, Field(gt=0, le=64)] = 4
    ls_init_value: _Number | None = None
    final_ln_after_pool: StrictBool = False
    pool_type: str = ""
    output_tokens: Literal[False] = False
    act_kwargs: _ActivationOptions | None = None
    norm_kwargs: _NormOptions | None = None
    block_type: str | None = None
    qk_norm: StrictBool = False
    scaled_cosine_attn: StrictBool = False
    scale_heads: StrictBool = False
    scale_attn_inner: StrictBool = False
    scale_attn: StrictBool = False
    scale_fc: StrictBool = False


class _Vision(_Transformer):
    head_width: _Count = 64
    patch_size: Annotated[StrictInt, Field(ge=4, le=256)] = 16
    image_size: _Count | list[_Count] = 224
    patch_dropout: _Number = 0
    attentional_pool: Literal[False] = False
    attn_pooler_queries: _Count = 256
    attn_pooler_heads: _Count = 8
    no_ln_pre: StrictBool = False
    pos_embed_type: str = "learnable"


class _TokenizerOptions(Frozen):
    clean: Literal["lower", "whitespace", "canonicalize"] = "lower"
    strip_sep_token: StrictBool = False
    language: str | None = None


class _Text(_Transformer):
    context_length: Annotated[StrictInt, Field(ge=3, le=4096)] = 77
    vocab_size: Annotated[StrictInt, Field(ge=1, le=4_000_000)] = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: Literal["", "clips"] | None = None
    tokenizer_kwargs: _TokenizerOptions | None = None
    heads: Annotated[StrictInt, Field(ge=1, le=256)] = 8
    embed_cls: StrictBool = False
    pad_id: StrictInt = 0
    eos_id: StrictInt = 2
    no_causal_mask: StrictBool = False
    proj_bias: StrictBool = False
    proj_type: str | None = "linear"


class _Architecture(Frozen):
    embed_dim: _Count
    vision_cfg: _Vision
    text_cfg: _Text
    quick_gelu: StrictBool = False
    custom_text: StrictBool = False
    nonscalar_logit_scale: StrictBool = False
    init_logit_scale: _Number = 0
    init_logit_bias: _Number | None = None


def check_readable(architecture: Any, name: str) -> None:
    """Check by its configuration that ovseg can read a CLIP, before anything is downloaded.

    Args:
        architecture: `model_cfg` of open_clip; it may hold anything.
        name: of the model, for messages.

    Raises:
        WeightsError: the image encoder is not a plain vision transformer, the text encoder is
            one of Hugging Face or needs a package that is not installed, a key is unknown, a value
            is impossible.
    """
    parts = architecture if isinstance(architecture, dict) else {}
    vision, text = (
        part if isinstance(part, dict) else {}
        for part in (parts.get("vision_cfg"), parts.get("text_cfg"))
    )
    kind = ""
    if "timm_model_name" in vision:
        kind = f"timm's {vision['timm_model_name']}"
    elif isinstance(vision.get("layers"), list):
        kind = "a ResNet"
    elif vision.get("attentional_pool") or "multimodal_cfg" in parts:
        kind = "a vision transformer with an attention pool"
    elif vision.get("pool_type") == "none":
        kind = "a vision transformer without pooling"
    if kind:
        raise WeightsError(
            f"{name} has {kind} as its image encoder; ovseg reads open_clip's plain vision "
            "transformers with a class token or the mean, such as ViT-B-32 or ViT-L-14"
        )
    if text.get("hf_model_name"):
        raise WeightsError(
            f"{name} has Hugging Face's {text['hf_model_name']} as its text encoder; ovseg reads "
            "open_clip's own, also with a tokenizer of Hugging Face, such as ViT-H-14-worldwide"
        )
    try:
        _Architecture.model_validate(architecture)
        check_transformers(text, name)
    except ValidationError as error:
        lines = "; ".join(problems(error, _Architecture, "model_cfg"))
        raise WeightsError(f"{name} cannot be read: {lines}") from error
    except ImportError as error:
        raise WeightsError(str(error)) from error
