"""Tiny SAM and SAM 2 with random weights, in transformers' own folders."""

from pathlib import Path
from typing import Any, Literal

import torch

SIDE_PX = 96


def write_sam(folder: Path, family: Literal["sam", "sam2"] = "sam") -> str:
    """Write a network with its image processor; return its name, `local-dir:FOLDER`."""
    torch.manual_seed(0)
    model, processor = _sam() if family == "sam" else _sam2()
    with torch.no_grad():
        for parameter in model.parameters():  # else all its masks are alike
            parameter.add_(torch.randn_like(parameter) * 0.25)
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.9)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"local-dir:{folder}"


def _sam() -> tuple[Any, Any]:
    from transformers import SamConfig, SamImageProcessor, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "mlp_dim": 32,
            "num_attention_heads": 2, "image_size": SIDE_PX, "patch_size": 8, "window_size": 4,
            "global_attn_indexes": [1], "num_pos_feats": 8, "initializer_range": 0.1,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": SIDE_PX, "patch_size": 8, "mask_input_channels": 4,
            "image_embedding_size": SIDE_PX // 8,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    processor = SamImageProcessor(
        size={"longest_edge": SIDE_PX}, pad_size={"height": SIDE_PX, "width": SIDE_PX}
    )
    return SamModel(config), processor


def _sam2() -> tuple[Any, Any]:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "image_size": [SIDE_PX, SIDE_PX], "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 4, 4], "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [3, 3],
            },
            "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[24, 24], [12, 12], [6, 6]],
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": SIDE_PX, "patch_size": 16, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    return Sam2Model(config), Sam2ImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})
