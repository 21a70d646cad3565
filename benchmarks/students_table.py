"""The results of `make bench-students` as tables and a picture for docs/students.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.quality import embedded_backbones
from benchmarks.students_world import (
    HELD_OUT,
    SEEN,
    TEACHER,
    drawn,
    predict,
    tensor_of,
    truth_of,
)
from ovseg_core.images.overlay import overlay
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import Segmenter

BEGIN, END = "<!-- students:begin -->", "<!-- students:end -->"
_TITLES = {
    "student": "`maskclip_plus`: the teacher's masks as they are",
    "self-training": "the same, self-training in the second half of the steps",
    "half labelled": "truth of every second label, the teacher's masks for the rest",
    "half labelled, self-training": "the same, self-training in the second half of the steps",
    "thresholds": "cleaned by calibrated `thresholds`",
    "min_score": "cleaned by `min_score` 0.5",
    "edge_px": "cleaned by `edge_px` 1",
    "max_review_priority": "cleaned by `max_review_priority` 0.9",
    "thresholds, 30 %": "`thresholds`, 30 % of the images",
    "thresholds, 10 %": "`thresholds`, 10 % of the images",
    "truth": "truth in place of the teacher's masks",
    "text_fusion": "`text_fusion`, truth, 50 images",
    "text_fusion, no text": "the same without text",
}
_GOALS = {
    "student_minus_teacher_seen_miou": ("student minus teacher, seen pairs, mIoU", 3.0),
    "student_minus_teacher_held_out_miou": ("student minus teacher, held-out pairs, mIoU", 0.0),
    "student_over_teacher_images_per_s_b16": ("images/s over a teacher of ViT-B/16's size", 10.0),
    "student_over_teacher_images_per_s_embedded": ("images/s over the embedded teacher", 3.0),
    "student_over_teacher_images_per_s_embedded_82_words": ("the same, 82 words", None),
    "self_training_gain_miou": ("self-training on minus off, half of the labels known, mIoU", None),
    "cleaning_gain_miou": ("cleaned by `thresholds` minus not cleaned, mIoU", 1.0),
    "text_minus_no_text_50_images_miou": ("text minus no text, 50 images, mIoU", 1.0),
}
_SCENES = ((3, False), (16, False), (5, True))
"""Number of a test scene, and whether it is of held-out pairs."""
_TITLES_ABOVE = "image", "teacher", "student", "truth"
_ZOOM, _GAP_PX, _HEAD_PX = 2, 6, 18


def tables(results: Mapping[str, Any]) -> str:
    """Return the tables: goals, every training, images a second."""
    return "\n".join([*_goals(results), "", *_rows(results), *_paces(results)])


def _goals(results: Mapping[str, Any]) -> list[str]:
    lines = ["| figure | measured | goal | reached |", "|---|---|---|---|"]
    for name, (title, goal) in _GOALS.items():
        value = results["goals"].get(name)
        wanted = "reported" if goal is None else f"at least {goal:g}"
        reached = "–" if goal is None or value is None else ("yes" if value >= goal else "**no**")
        lines.append(
            f"| {title} | {'not yet' if value is None else f'{value:.1f}'} | {wanted} | {reached} |"
        )
    return lines


def _rows(results: Mapping[str, Any]) -> list[str]:
    teacher = results["teacher"]
    lines = [
        "| learned from | images | seeds | seen pairs | held-out pairs | CPU s | images/s | MiB |",
        "|---|---|---|---|---|---|---|---|",
        "| the teacher itself, `maskclip` behind the gate | – | – "
        f"| {teacher['seen']:.1f} | {teacher['held_out']:.1f} | – | – | – |",
    ]
    for key, seeds in results["rows"].items():
        ones = list(seeds.values())
        cells = [_TITLES[key], str(ones[0]["images"]), str(len(ones))]
        cells += [_spread([one[part] for one in ones]) for part in ("seen", "held_out")]
        for name in ("cpu_s", "training_images_per_s", "peak_mib"):
            known = [one[name] for one in ones if name in one]
            cells.append(f"{fmean(known):.0f}" if known else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _paces(results: Mapping[str, Any]) -> list[str]:
    if "images_per_s" not in results:
        return []
    lines = ["", "| images/s, one thread | student | teacher | teacher of ViT-B/16's size |"]
    lines.append("|---|---|---|---|")
    for words, pace in results["images_per_s"].items():
        names = "student", "teacher", "teacher_vit_b16"
        cells = [f"{pace[name]:.2f}" if name in pace else "–" for name in names]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float | None]) -> str:
    """Return the mean, and of several seeds the smallest and largest value."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{fmean(known):.1f}"
    return text if len(known) == 1 else f"{text} ({min(known):.1f} to {max(known):.1f})"


def write_tables(results: Mapping[str, Any], file: Path) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: the file has no such markers.
    """
    text = file.read_text(encoding="utf-8")
    before, found_begin, rest = text.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found_begin and found_end):
        raise ValueError(f"{file} has no {BEGIN} ... {END}")
    whole = f"{before}{BEGIN}\n{tables(results)}\n{END}{after}"
    file.write_text(whole, encoding="utf-8")


def draw_picture(student: Segmenter[Any], file: Path) -> None:
    """Draw test scenes with the masks of teacher, student and truth, side by side."""
    teacher = build_segmenter(TEACHER, embedded_backbones())
    lines = []
    for number, held_out in _SCENES:
        labels = HELD_OUT if held_out else SEEN
        scene = drawn("test", number, held_out=held_out)
        maps = [predict(one, tensor_of(scene), labels) for one in (teacher, student)]
        maps.append(truth_of(scene, labels).astype(np.uint16))
        image = _enlarged(Image.fromarray(scene.image))
        pixels = np.asarray(image)
        lines.append([image, *(overlay(pixels, one, labels, write_names=True) for one in maps)])
    width = max(tile.width for line in lines for tile in line) + _GAP_PX
    canvas = Image.new(
        "RGB",
        (width * len(_TITLES_ABOVE), _HEAD_PX + sum(_height(line) + _GAP_PX for line in lines)),
        "white",
    )
    draw, top = ImageDraw.Draw(canvas), _HEAD_PX
    for column, title in enumerate(_TITLES_ABOVE):
        draw.text((column * width + 2, 3), title, fill="black")
    for line in lines:
        for column, tile in enumerate(line):
            canvas.paste(tile, (column * width, top))
        top += _height(line) + _GAP_PX
    # The palette of pixels of these colours, refined: the fast one makes purple of blue.
    small = canvas.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def _height(line: Sequence[Image.Image]) -> int:
    """Return the height of the tallest tile: names without room stand below a picture."""
    return max(tile.height for tile in line)


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((_ZOOM * image.width, _ZOOM * image.height), Image.Resampling.BILINEAR)
