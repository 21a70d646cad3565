"""Measure the embedded models on images that were not trained on.

`python -m training.measure --folder ovseg_core/embedded` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer as Tokenizer
from safetensors.torch import load_file
from torch import Tensor, nn

from jobs.demo.scenes import Scene, all_phrases, draw_crop, draw_scene
from jobs.demo.shapes import SHAPES
from training import readouts
from training.measure_sam import sam_figures
from training.networks import CLIP_MEAN, CLIP_STD, IMAGE_PX

EVALUATION_SEED = 900_000_000
"""Far from all training seeds, which are small numbers times 100,003."""
ENSEMBLE = ("a photo of a {}", "{}", "a picture of a {}", "an image of a {}")


def load_clip(folder: Path) -> tuple[nn.Module, Tokenizer]:
    """Load model and tokenizer as open_clip does."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    bpe = str(folder / "bpe_simple_vocab.txt.gz")
    return model, open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=bpe)


def load_vit(folder: Path) -> nn.Module:
    """Load the ViT as timm does."""
    config = json.loads((folder / "config.json").read_text())
    kwargs = config["kwargs"] | {"checkpoint_path": str(folder / "model.safetensors")}
    return timm.create_model(config["architecture"], **kwargs).eval()


@torch.no_grad()
def image_rows(clip: nn.Module, images: list[np.ndarray]) -> Tensor:
    """Return unit embeddings (B, D) of crops of one size."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    if batch.shape[-1] != IMAGE_PX:
        batch = F.interpolate(
            batch, size=(IMAGE_PX, IMAGE_PX), mode="bicubic", antialias=True
        ).clamp(0, 1)
    return clip.encode_image((batch - CLIP_MEAN) / CLIP_STD, normalize=True)


def object_crops(count: int, held_out: bool) -> tuple[list[np.ndarray], list[str]]:
    """Return square windows around objects of scenes (1.25 times the visible box) and names."""
    images, names, seed = [], [], EVALUATION_SEED + 500_000
    while len(images) < count:
        scene = draw_scene(seed, held_out=held_out)
        seed += 1
        for k, name in enumerate(scene.labels, start=1):
            rows, columns = np.nonzero(scene.label_map == k)
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            side = int(min(max(1.25 * extent, 16), 128))
            y0 = int(np.clip((rows.min() + rows.max() - side) / 2, 0, 128 - side))
            x0 = int(np.clip((columns.min() + columns.max() - side) / 2, 0, 160 - side))
            window = torch.from_numpy(scene.image[y0 : y0 + side, x0 : x0 + side].copy())
            resized = F.interpolate(
                window.permute(2, 0, 1)[None].float(),
                size=(IMAGE_PX, IMAGE_PX),
                mode="bicubic",
                antialias=True,
            )
            images.append(resized[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy())
            names.append(name)
    return images[:count], names[:count]


def crop_figures(clip: nn.Module, tokenizer: Tokenizer, count: int) -> dict[str, float]:
    """Return top-1 of crops: 384 phrases, each word, bare shape words, crowded scenes."""
    phrases = list(all_phrases())
    text = readouts.text_matrix(clip, tokenizer, phrases, ENSEMBLE)
    bare = readouts.text_matrix(clip, tokenizer, list(SHAPES), ENSEMBLE)
    figures: dict[str, float] = {}
    for split, held_out in (("seen", False), ("held_out", True)):
        rng = np.random.default_rng([EVALUATION_SEED, held_out])
        drawn = [draw_crop(rng, IMAGE_PX, held_out) for _ in range(count)]
        rows = image_rows(clip, [image for image, _ in drawn])
        best = (rows @ text.T).argmax(1).tolist()
        hits = [[g == w for g, w in zip(phrases[b].split(), t.phrase.split(), strict=True)]
                for b, (_, t) in zip(best, drawn, strict=True)]  # fmt: skip
        figures[f"phrase_{split}"] = float(np.mean([all(h) for h in hits]))
        for place, word in enumerate(("colour", "pattern", "shape")):
            figures[f"{word}_{split}"] = float(np.mean([h[place] for h in hits]))
        shape = (rows @ bare.T).argmax(1).tolist()
        figures[f"bare_shape_{split}"] = float(
            np.mean([SHAPES[s] == t.shape for s, (_, t) in zip(shape, drawn, strict=True)])
        )
        images, names = object_crops(count, held_out)
        best = (image_rows(clip, images) @ text.T).argmax(1).tolist()
        figures[f"crowded_{split}"] = float(
            np.mean([phrases[b] == n for b, n in zip(best, names, strict=True)])
        )
    return figures


class IouTally:
    """Intersections and unions over scenes, per phrase and per scene."""

    def __init__(self) -> None:
        self.names = ["background", *all_phrases()]
        self.hit = np.zeros(len(self.names))
        self.union = np.zeros(len(self.names))
        self.per_scene: list[float] = []

    def add(self, scene: Scene, labels: Tensor) -> None:
        """Count a scene; labels index the scene's own phrases, 0 is background."""
        found = labels.numpy()
        scores = []
        for k, name in enumerate(["background", *scene.labels]):
            hit = np.sum((found == k) & (scene.label_map == k))
            union = np.sum((found == k) | (scene.label_map == k))
            place = self.names.index(name)
            self.hit[place] += hit
            self.union[place] += union
            scores.append(hit / max(union, 1))
        self.per_scene.append(float(np.mean(scores)))

    def figures(self, name: str) -> dict[str, float]:
        """Return the mIoU over all classes, and the mean over scenes."""
        present = self.union > 0
        pooled = float(np.mean(self.hit[present] / self.union[present]))
        return {f"miou_{name}": pooled, f"scene_miou_{name}": float(np.mean(self.per_scene))}


def dense_figures(
    clip: nn.Module, tokenizer: Tokenizer, found: tuple | None, count: int
) -> dict[str, float]:
    """Return mIoUs on `count` scenes per split, with each scene's phrases as its vocabulary."""
    figures: dict[str, float] = {}
    for split, held_out in (("seen", False), ("held_out", True)):
        tallies: dict[str, IouTally] = {}
        hit = union = 0
        for i in range(count):
            scene = draw_scene(EVALUATION_SEED + i, held_out=held_out)
            names = ["background", *scene.labels]
            text = readouts.text_matrix(clip, tokenizer, names, ("a photo of a {}",))
            truth = torch.from_numpy(scene.label_map > 0)
            fields = {"true": truth.float()}
            if found is not None:
                fields["found"] = readouts.objectness(*found, scene.image)
                guess = fields["found"] > 0.5
                hit += int((guess & truth).sum())
                union += int((guess | truth).sum())
            for source, fore in fields.items():
                for method in (readouts.clip_diy, readouts.maskclip):
                    labels = method(clip, scene.image, text, fore)
                    tally = tallies.setdefault(f"{method.__name__}_{source}_{split}", IouTally())
                    tally.add(scene, labels)
        for name, tally in tallies.items():
            figures |= tally.figures(name)
        if found is not None:
            figures[f"foreground_iou_{split}"] = hit / union
    return figures


def measure(folder: Path, crops: int = 1500, scenes: int = 200) -> dict[str, float]:
    """Return all figures of the models in a folder laid out like `ovseg_core/embedded`."""
    clip, tokenizer = load_clip(folder / "clip")
    found = None
    if (folder / "found" / "head.safetensors").exists():
        found = (load_vit(folder / "vit"), load_file(folder / "found" / "head.safetensors"))
    figures = crop_figures(clip, tokenizer, crops)
    figures |= dense_figures(clip, tokenizer, found, scenes)
    if (folder / "sam").exists():
        figures |= sam_figures(folder / "sam", scenes)
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    """Print the figures of a folder as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(measure(options.folder, options.crops, options.scenes), indent=1))


if __name__ == "__main__":
    main()
