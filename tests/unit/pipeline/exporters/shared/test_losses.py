import pytest

from pipeline.exporters.shared.losses import LossReport
from pipeline.storage.folder import Folder


def test_text_tells_what_was_written_lost_and_has_no_place(tmp_path):
    losses = LossReport("A format", ["scores"])
    losses.wrote("images", 2)
    losses.wrote("segments")
    losses.lost("masks with holes filled")
    losses.lost("masks with holes filled", 2)
    losses.lost("segments left out by size", 0)
    for iou in (1.0, 0.9499, 0.95, 0.25):
        losses.outline(iou)
    losses.write(Folder(str(tmp_path)))
    assert (tmp_path / "LOSSES.txt").read_text().splitlines() == [
        "A format",
        "",
        "Written:",
        "         2  images",
        "         1  segments",
        "",
        "Lost in this export:",
        "         3  masks with holes filled",
        "         0  segments left out by size",
        "         2  masks whose outline has an IoU under 0.95",
        "         4  outlines compared with their masks: IoU 0.949 in the median, "
        "0.250 at the lowest",
        "",
        "What this format has no place for:",
        "- scores",
    ]
    assert losses.num_poor_outlines == 2


def test_nothing_lost_is_said():
    losses = LossReport("Exact")
    assert losses.text().endswith("Lost in this export:\n- nothing\n")
    assert "outlines" not in losses.text()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_losses_does_not_matter(seed):
    def text(names: list[str]) -> str:
        losses = LossReport("A format")
        for name in names:
            losses.lost(name)
            losses.wrote(name)
            losses.outline(len(name) / 10)
        return losses.text()

    names = ["one", "two", "three", "four", "five"]
    assert text(names[seed:] + names[:seed]) == text(names[::-1])
