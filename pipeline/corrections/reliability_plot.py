"""Draw the reliability diagram of a calibration: score against share of right segments."""

from PIL import Image, ImageDraw, ImageFont

from pipeline.corrections.calibrate import NUM_BINS, CalibrationReport, Reliability

_INK, _QUIET, _PAPER, _GRID = (33, 37, 41), (108, 117, 125), (255, 255, 255), (222, 226, 230)
_BAR, _GAP = (66, 133, 200), (230, 120, 60)
_SIDE, _MARGIN, _HEAD, _FOOT, _COUNTS = 320, 56, 64, 44, 70
"""Pixels: side of a panel's square, margin, room above and below, height of the counts."""
_TEXT, _SMALL = 15, 12


def draw(report: CalibrationReport) -> Image.Image:
    """Draw two panels, before and after, each with the number of segments per bin below."""
    width = 2 * (_SIDE + _MARGIN) + _MARGIN
    picture = Image.new("RGB", (width, _HEAD + _SIDE + _COUNTS + _FOOT + _MARGIN), _PAPER)
    panels = (("before: mean probability", report.before), ("after, held-out images", report.after))
    for place, (title, reliability) in enumerate(panels):
        _panel(ImageDraw.Draw(picture), _MARGIN + place * (_SIDE + _MARGIN), title, reliability)
    return picture


def _panel(draw: ImageDraw.ImageDraw, left: int, title: str, reliability: Reliability) -> None:
    top, bottom = _HEAD, _HEAD + _SIDE
    draw.text((left, top - 46), title, _INK, ImageFont.load_default(_TEXT))
    numbers = f"mean error {reliability.expected_error:.3f}, Brier {reliability.brier:.3f}"
    draw.text((left, top - 24), numbers, _QUIET, ImageFont.load_default(_SMALL))
    for step in range(5):
        at = round(_SIDE * step / 4)
        draw.line((left, bottom - at, left + _SIDE, bottom - at), _GRID)
        draw.line((left + at, top, left + at, bottom), _GRID)
        value = f"{step / 4:.2f}"
        small = ImageFont.load_default(_SMALL)
        draw.text((left - 8, bottom - at), value, _QUIET, small, anchor="rm")
        draw.text((left + at, bottom + _COUNTS + 8), value, _QUIET, small, anchor="mt")
    _bars(draw, left, reliability)
    draw.line((left, bottom, left + _SIDE, top), _QUIET, 1)
    draw.rectangle((left, top, left + _SIDE, bottom), outline=_QUIET)
    label = (left + _SIDE // 2, bottom + _COUNTS + 26)
    draw.text(label, "score (below: segments)", _QUIET, ImageFont.load_default(_SMALL), anchor="mt")


def _bars(draw: ImageDraw.ImageDraw, left: int, reliability: Reliability) -> None:
    """Draw the share of right segments as bars, the gap to the score in another colour."""
    bottom, wide = _HEAD + _SIDE, _SIDE / NUM_BINS
    most = max((count for _, _, count in reliability.bins), default=1)
    for score, right, count in reliability.bins:
        start = left + int(min(score * NUM_BINS, NUM_BINS - 1)) * wide
        across = (round(start + 2), round(start + wide - 2))
        share, expected = (bottom - round(_SIDE * value) for value in (right, score))
        draw.rectangle((across[0], share, across[1], bottom), _BAR)
        low, high = sorted((share, expected))
        draw.rectangle((across[0], low, across[1], high), None, _GAP, 2)
        height = round((_COUNTS - 18) * count / most)
        below = bottom + 4
        draw.rectangle((across[0], below, across[1], below + height), _GRID)
        text = (sum(across) / 2, below + height + 1)
        draw.text(text, str(count), _QUIET, ImageFont.load_default(9), anchor="mt")
