"""Sliding windows in mmseg's scan order."""


def window_boxes(
    size_hw: tuple[int, int], crop_px: int, stride_px: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows (y1, x1, y2, x2) over an image, rows outer.

    The last window of a row or column is shifted back to keep the full crop; in an image smaller
    than the crop the window is as small as the image.
    """
    rows, columns = (_spans(side, crop_px, stride_px) for side in size_hw)
    return [(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in columns]


def _spans(side_px: int, crop_px: int, stride_px: int) -> list[tuple[int, int]]:
    count = max(side_px - crop_px + stride_px - 1, 0) // stride_px + 1
    ends = [min(index * stride_px + crop_px, side_px) for index in range(count)]
    return [(max(end - crop_px, 0), end) for end in ends]
