"""Draw the reliability diagram of a calibration: score against share of right segments."""

from PIL import Image, ImageDraw

from ovseg_core.images.lettering import INK, PAPER, QUIET, font, text_width, wrapped_text
from pipeline.corrections.calibrate import NUM_BINS, CalibrationReport, Reliability

_GRID = (222, 226, 230)
_BAR, _GAP, _COUNT = (66, 133, 200), (230, 120, 60), (190, 196, 202)
_SIDE, _LEFT, _MARGIN, _HEAD, _FOOT = 320, 72, 40, 64, 140
"""Pixels: side of a panel's square, room left of it, between panels, above and below."""
_COUNTS_PX, _COUNT_BAR_PX = 74, 50
"""Height of the room for counts, and of the largest grey bar in it."""
_TEXT, _SMALL = 15, 12


def draw(report: CalibrationReport) -> Image.Image:
    """Draw two panels, before and after, each with the number of segments per bin below."""
    width = 2 * (_LEFT + _SIDE) + 2 * _MARGIN
    picture = Image.new("RGB", (width, _HEAD + _SIDE + _COUNTS_PX + _FOOT), PAPER)
    panels = (("before: mean probability", report.before), ("after, held-out images", report.after))
    for place, (title, reliability) in enumerate(panels):
        left = _LEFT + place * (_LEFT + _SIDE + _MARGIN)
        _panel(ImageDraw.Draw(picture), left, title, reliability)
        upright = _upright("share of right segments")
        picture.paste(upright, (left - 60, _HEAD + (_SIDE - upright.height) // 2))
    _caution(ImageDraw.Draw(picture), report)
    _legend(ImageDraw.Draw(picture), picture.height - 24)
    return picture


def _panel(draw: ImageDraw.ImageDraw, left: int, title: str, reliability: Reliability) -> None:
    top, bottom = _HEAD, _HEAD + _SIDE
    draw.text((left, top - 46), title, INK, font(_TEXT))
    numbers = f"mean error {reliability.expected_error:.3f}, Brier {reliability.brier:.3f}"
    draw.text((left, top - 24), numbers, QUIET, font(_SMALL))
    for step in range(5):
        at = round(_SIDE * step / 4)
        draw.line((left, bottom - at, left + _SIDE, bottom - at), _GRID)
        draw.line((left + at, top, left + at, bottom), _GRID)
        value = f"{step / 4:.2f}"
        draw.text((left - 8, bottom - at), value, QUIET, font(_SMALL), anchor="rm")
        draw.text((left + at, bottom + _COUNTS_PX + 8), value, QUIET, font(_SMALL), anchor="mt")
    _bars(draw, left, reliability)
    draw.line((left, bottom, left + _SIDE, top), QUIET, 1)
    draw.rectangle((left, top, left + _SIDE, bottom), outline=QUIET)
    draw.text((left + _SIDE // 2, bottom + _COUNTS_PX + 26), "score", QUIET, font(_SMALL), "mt")


def _caution(draw: ImageDraw.ImageDraw, report: CalibrationReport) -> None:
    """Say below the right panel where there is little to be seen in it, and why."""
    lines = wrapped_text(report.without_effect, _SMALL, _SIDE)
    at = 2 * _LEFT + _SIDE + _MARGIN, _HEAD + _SIDE + _COUNTS_PX + 48
    draw.text(at, "\n".join(lines), INK, font(_SMALL))


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
        below = bottom + 4
        end = below + round(_COUNT_BAR_PX * count / most)
        draw.rectangle((across[0], below, across[1], end), _COUNT)
        text = str(count) if text_width(str(count), _SMALL) <= wide else f"{count / 1000:.0f}k"
        draw.text((sum(across) / 2, end + 5), text, INK, font(_SMALL), anchor="mt")


def _legend(draw: ImageDraw.ImageDraw, middle: int) -> None:
    """Say what the colours are."""
    left = _LEFT
    for fill, outline, text in (
        (_BAR, None, "share of right segments"),
        (None, _GAP, "its distance from the mean score"),
        (_COUNT, None, "number of segments"),
    ):
        draw.rectangle((left, middle - 7, left + 14, middle + 7), fill, outline, 2)
        draw.text((left + 22, middle), text, INK, font(_SMALL), anchor="lm")
        left += 22 + text_width(text, _SMALL) + 28


def _upright(text: str) -> Image.Image:
    """Return a text that is read from below."""
    lying = Image.new("RGB", (text_width(text, _SMALL) + 4, _SMALL + 6), PAPER)
    at = lying.width / 2, lying.height / 2
    ImageDraw.Draw(lying).text(at, text, QUIET, font(_SMALL), anchor="mm")
    return lying.transpose(Image.Transpose.ROTATE_90)
