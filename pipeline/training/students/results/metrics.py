"""The course of a training in numbers: a table, TensorBoard's event file, a picture of curves."""

import json
import logging
import math
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from ovseg_core.images.lettering import INK, PAPER, QUIET, font
from pipeline.job.worker_process import peak_memory
from pipeline.storage.folder import Folder

logger = logging.getLogger(__name__)

METRICS, EVENTS, CURVES = "metrics.parquet", "events/events.out.tfevents.student", "curves.png"
_MAX_ROWS = 500
"""Rows of a training without those of validations."""
_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("miou", pa.float64()),
        ("images_per_s", pa.float64()),
        ("peak_bytes", pa.int64()),
        ("at_s", pa.float64()),
    ]
)
_WIDTH, _HEIGHT, _MARGIN = 560, 220, 56
_LINE, _GRID, _KEPT = (66, 133, 200), (222, 226, 230), (200, 80, 30)


class Metrics:
    """Rows of a training: mean loss over the steps since the row before, and validations.

    Args:
        steps: of the whole training.
        batch: images of a step, over all workers.
        device: whose memory is noted, `cpu` or `cuda`.

    Attributes:
        peak_bytes: the most memory that this process, or its GPU, has held so far.
    """

    def __init__(self, steps: int, batch: int, device: str = "cpu") -> None:
        self._every = -(-steps // _MAX_ROWS)
        self._batch = batch
        self._device = device
        self._num_images, self._seconds = 0, 0.0
        self.peak_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._since_s = time.monotonic()

    def add_step(self, step: int, loss: float, learning_rate: float) -> None:
        """Count a step; a row is added now and then."""
        self._losses.append(loss)
        if step % self._every:
            return
        num_images = self._batch * len(self._losses)
        seconds = max(time.monotonic() - self._since_s, 1e-9)
        self._num_images, self._seconds = self._num_images + num_images, self._seconds + seconds
        self.peak_bytes = peak_memory(self._device)
        row = {"loss": fmean(self._losses), "learning_rate": learning_rate}
        row |= {"images_per_s": num_images / seconds, "peak_bytes": self.peak_bytes}
        self._rows.append({"step": step, **row, "at_s": time.time()})
        self.restart_clock()

    def add_validation(self, step: int, miou: float) -> None:
        """Add the result of a validation; the time that it took is not counted as training."""
        self._rows.append({"step": step, "miou": miou, "at_s": time.time()})
        self._since_s = time.monotonic()

    @property
    def images_per_s(self) -> float | None:
        """Speed of training since this object was made, without validations; None: no row yet."""
        return self._num_images / self._seconds if self._seconds else None

    def restart_clock(self) -> None:
        """Count the speed from now on; losses that are in no row yet are left out."""
        self._losses = []
        self._since_s = time.monotonic()

    def to_json(self) -> str:
        """Return the rows, and losses that are in none yet, for a checkpoint."""
        return json.dumps([self._rows, self._losses])

    def restore(self, text: str) -> None:
        """Take the rows of a checkpoint.

        Raises:
            ValueError: they are none.
        """
        rows, losses = json.loads(text)
        table = pa.Table.from_pylist(rows, _SCHEMA)
        self._rows = [
            {key: value for key, value in row.items() if value is not None}
            for row in table.to_pylist()
        ]
        self._losses = [float(loss) for loss in losses]

    def write(self, folder: Folder) -> None:
        """Write the table and TensorBoard's events, each atomically."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(self._rows, _SCHEMA), sink)
        folder.atomic_write(METRICS, sink.getvalue().to_pybytes())
        events = self._events()
        if events:
            folder.atomic_write(EVENTS, events)

    def _events(self) -> bytes:
        """Return TensorBoard's event file; empty where tensorboardX is not installed."""
        try:
            from tensorboardX import FileWriter, summary
        except ImportError:
            logger.info("no TensorBoard events are written: tensorboardX is not installed")
            return b""
        place = tempfile.mkdtemp(prefix="ovseg-events-")
        try:
            writer = FileWriter(place)
            for row in self._rows:
                for name in ("loss", "learning_rate", "miou", "images_per_s"):
                    if name in row:
                        value = summary.scalar(name, row[name])
                        writer.add_summary(value, row["step"], walltime=row["at_s"])
            writer.close()
            return next(iter(Path(place).iterdir())).read_bytes()
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def curves(self, kept_step: int | None = None) -> Image.Image:
        """Draw loss and mIoU over the steps.

        Args:
            kept_step: the validation of this step is marked: its weights are kept.
        """
        losses = [(row["step"], row["loss"]) for row in self._rows if "loss" in row]
        mious = [(row["step"], row["miou"]) for row in self._rows if "miou" in row]
        panels = [("loss", losses, None), ("mIoU of validation", mious, kept_step)]
        height = len(panels) * (_HEIGHT + 2 * _MARGIN)
        picture = Image.new("RGB", (_WIDTH + 2 * _MARGIN, height), PAPER)
        for place, (title, points, marked) in enumerate(panels):
            top = place * (_HEIGHT + 2 * _MARGIN) + _MARGIN
            _panel(ImageDraw.Draw(picture), top, title, points, marked)
        return picture


def _panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    title: str,
    points: list[tuple[int, float]],
    kept_step: int | None,
) -> None:
    """Draw one curve from 0 to its highest value; mark the step whose weights are kept, if any."""
    left, right, bottom = _MARGIN, _MARGIN + _WIDTH, top + _HEIGHT
    shown = title if points else f"{title}: none"
    draw.text((left, top - 28), shown, INK, font(15))
    draw.rectangle((left, top, right, bottom), outline=QUIET)
    if not points:
        return
    most = max(value for _, value in points) or 1.0
    last = points[-1][0]
    for value, text in _heights(most):
        y = bottom - value * _HEIGHT / most
        draw.line((left, y, right, y), _GRID)
        draw.text((left - 6, y), text, QUIET, font(12), anchor="rm")
    for step in _ticks(last):
        at = left + step * _WIDTH / last
        draw.line((at, bottom, at, bottom + 4), QUIET)
        draw.text((at, bottom + 8), f"{step:,}", QUIET, font(12), anchor="mt")
    draw.text(((left + right) / 2, bottom + 26), "step", QUIET, font(12), anchor="mt")
    line = [
        (left + step * _WIDTH / last, bottom - value * _HEIGHT / most) for step, value in points
    ]
    draw.line(line, _LINE, 2)
    for x, y in line if len(line) < 30 else line[-1:]:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), _LINE)
    for (x, y), (step, value) in zip(line, points, strict=True):
        if step == kept_step:
            draw.line((x, y, x, bottom), _KEPT)
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), None, _KEPT, 2)
            kept = f"kept: step {step:,}, {value:.3f}"
            draw.text((right, top - 26), kept, _KEPT, font(12), anchor="rt")


def _heights(most: float) -> list[tuple[float, str]]:
    """Return at most six round numbers from 0 to the highest value, and their texts."""
    number, power = _round_part(most, 5, math.floor(math.log10(most)) - 1)
    every = number * 10.0**power
    values = [part * every for part in range(6) if part * every <= most * (1 + 1e-9)]
    return [(value, f"{value:.{max(0, -power)}f}") for value in values]


def _ticks(last: int) -> range:
    """Return at most seven round numbers from 0 to the last one."""
    number, power = _round_part(last, 6, 0)
    return range(0, last + 1, number * 10**power)


def _round_part(most: float, num_parts: int, least_power: int) -> tuple[int, int]:
    """Return 1, 2 or 5 and a power of ten: their least product of which the parts reach `most`."""
    return next(
        (number, power)
        for power in count(least_power)
        for number in (1, 2, 5)
        if number * 10.0**power * num_parts >= most
    )
