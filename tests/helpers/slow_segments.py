"""Segments as they were cut before runs: label by label, with OpenCV, on all pixels.

What `ovseg_core.decision.segments.cut_segments` must equal.
"""

import cv2
import numpy as np


def cut_segments(label_map: np.ndarray, mode: str) -> tuple[np.ndarray, list[int], list[int]]:
    """Return segment numbers (H, W), and label and number of components of each, from 0."""
    labels, num_components = [0], [0]
    numbers = np.zeros(label_map.shape, np.int32)
    for label in np.unique(label_map[label_map > 0]).tolist():
        inside = label_map == label
        count, components = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
        if mode == "class":
            numbers[inside] = len(labels)
            labels.append(label)
            num_components.append(count - 1)
            continue
        _, first, number = np.unique(components[inside], return_index=True, return_inverse=True)
        numbers[inside] = np.argsort(np.argsort(first))[number] + len(labels)
        labels += [label] * (count - 1)
        num_components += [1] * (count - 1)
    return numbers, labels, num_components
