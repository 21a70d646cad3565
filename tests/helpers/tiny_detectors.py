"""A tiny OWLv2 with random weights, in transformers' own folder."""

import json
from pathlib import Path

import torch

SIDE_PX = 96


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
