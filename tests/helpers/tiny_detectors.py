"""A tiny OWLv2 and a tiny SAM 3 with random weights, in transformers' own folders."""

import json
from pathlib import Path
from typing import Any

import torch

SIDE_PX = 96
SAM3_SIDE_PX = 56


def write_owlv2(folder: Path) -> str:
    """Write a network, its image processor and a tokenizer of single letters.

    Returns:
        Its name, `local-dir:FOLDER`.
    """
    from transformers import (
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    tokenizer = CLIPTokenizer(**_letters(folder), pad_token="!", model_max_length=16)
    processor = Owlv2Processor(
        Owlv2ImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX}), tokenizer
    )
    config = Owlv2Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE_PX, "patch_size": 16,
        },
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        for weight in model.owlv2.parameters():  # else all patches and phrases are alike
            weight.add_(torch.randn_like(weight) * 0.2 * (weight.ndim > 1))
        # Scores that are neither 0 nor 1, of boxes near their patches and larger than those.
        head = model.class_head
        head.dense0.weight.normal_()
        head.logit_shift.weight.normal_(std=0.02)
        head.logit_scale.weight.normal_(std=0.02)
        head.logit_scale.bias.fill_(3.0)
        model.box_head.dense2.weight.normal_(std=0.02)
        model.box_head.dense2.bias[2:] = 0.7
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"local-dir:{folder}"


def write_sam3(folder: Path, *, as_video: bool = False) -> str:
    """Write a network, its image processor and a tokenizer of single letters.

    Args:
        folder: is made.
        as_video: with a tracker beside it, as it is published.

    Returns:
        Its name, `local-dir:FOLDER`.
    """
    from transformers import (
        CLIPTokenizer,
        Sam3ImageProcessor,
        Sam3Model,
        Sam3Processor,
        Sam3VideoConfig,
        Sam3VideoModel,
    )

    # The padding is the end token, as with the published network.
    ends = {"pad_token": "<|endoftext|>", "model_max_length": 32}
    tokenizer = CLIPTokenizer(**_letters(folder), **ends)
    side = {"height": SAM3_SIDE_PX, "width": SAM3_SIDE_PX}
    processor = Sam3Processor(Sam3ImageProcessor(size=side), tokenizer)
    config = _sam3_config(len(tokenizer))
    torch.manual_seed(0)
    model: Any = Sam3Model(config)
    found = model
    if as_video:
        video = Sam3VideoConfig(detector_config=config.to_dict(), tracker_config=_tracker(config))
        model = Sam3VideoModel(video)
        found = model.detector_model
    with torch.no_grad():
        for weight in found.parameters():  # else all images and phrases are alike
            weight.add_(torch.randn_like(weight) * 0.2 * (weight.ndim > 1))
        found.detr_decoder.presence_head.layer3.bias.add_(2.0)  # objects above and below a half
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"local-dir:{folder}"


def _sam3_config(num_tokens: int) -> Any:
    from transformers import Sam3Config

    layers = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return Sam3Config(
        vision_config={
            "backbone_config": {
                **layers, "model_type": "sam3_vit_model", "num_hidden_layers": 2, "patch_size": 7,
                "image_size": SAM3_SIDE_PX, "pretrain_image_size": SAM3_SIDE_PX // 2,
                "window_size": 4, "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 16, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            **layers, "model_type": "clip_text_model", "vocab_size": num_tokens,
            "num_hidden_layers": 1, "projection_dim": 16, "max_position_embeddings": 32,
            "bos_token_id": num_tokens - 2, "eos_token_id": num_tokens - 1,
            "pad_token_id": num_tokens - 1,
        },
        geometry_encoder_config={**layers, "num_layers": 1},
        detr_encoder_config={**layers, "num_layers": 1},
        detr_decoder_config={**layers, "num_layers": 2, "num_queries": 6},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )  # fmt: skip


def _tracker(config: Any) -> dict[str, Any]:
    decoder = {"mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    memory = {
        "memory_attention_num_layers": 1, "memory_encoder_output_channels": 8,
        "memory_fuser_num_layers": 1,
    }  # fmt: skip
    widths = (
        "memory_attention_hidden_size", "memory_attention_feed_forward_hidden_size",
        "memory_encoder_hidden_size", "mask_downsampler_embed_dim", "memory_fuser_embed_dim",
        "memory_fuser_intermediate_dim",
    )  # fmt: skip
    return {
        "model_type": "sam3_tracker_video",
        "vision_config": config.to_dict()["vision_config"],
        "prompt_encoder_config": {
            "hidden_size": 16, "image_size": SAM3_SIDE_PX, "patch_size": 7,
            "mask_input_channels": 4,
        },
        "mask_decoder_config": {"hidden_size": 16, **decoder},
        **memory,
        **dict.fromkeys(widths, 16),
    }  # fmt: skip


def _letters(folder: Path) -> dict[str, str]:
    """Write the vocabulary of a byte-level tokenizer without merges; return its files."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    ends = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *ends]
    assert tokens[0] == "!"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return {"vocab": str(vocabulary), "merges": str(merges)}
