import pytest

from pipeline.exporters.shared.loss_report import LossReport, recorded_of, summary_of
from schemas.base import Frozen


class Options(Frozen):
    min_score: float = 0.5
    segments: str = "as_run"


def test_text_lists_options_written_losses_and_what_is_not_held():
    losses = LossReport("A format", Options(), ["scores"])
    losses.count_written("images", 2)
    losses.count_written("segments")
    losses.count_lost("masks with holes filled")
    losses.count_lost("masks with holes filled", 2)
    losses.count_lost("segments left out by size", 0)
    for iou in (1.0, 0.9499, 0.95, 0.25):
        losses.count_outline(iou)
    assert losses.text().splitlines() == [
        "A format",
        "Options: min_score=0.5, segments=as_run",
        "",
        "Written:",
        "         2  images",
        "         1  segments",
        "",
        "Lost in this export:",
        "         3  masks with holes filled",
        "         0  segments left out by size",
        "",
        "Outlines, compared with their masks (what fills a hole counts as well):",
        "         4  outlines: IoU 0.949 in the median, 0.250 at the lowest",
        "         2  masks whose outline has an IoU under 0.95",
        "",
        "What this format has no place for:",
        "- scores",
    ]
    assert losses.num_poor_outlines == 2
    lost = {"masks with holes filled": 3, "segments left out by size": 0}
    assert recorded_of(losses.text()).lost == lost


def test_options_hide_secrets():
    losses = LossReport("A format", Options(segments="https://name:secret@host/x?sig=secret"))
    assert losses.options_line == "Options: min_score=0.5, segments=https://***@host/x?***"


def test_text_without_losses_says_nothing_lost():
    losses = LossReport("Exact", Options())
    assert losses.text().endswith("Lost in this export:\n- nothing\n")
    assert "outlines" not in losses.text()


@pytest.mark.parametrize("seed", range(3))
def test_text_does_not_depend_on_the_order_of_losses(seed):
    def text(names: list[str]) -> str:
        losses = LossReport("A format", Options())
        for name in names:
            losses.count_lost(name)
            losses.count_written(name)
            losses.count_outline(len(name) / 10)
        return losses.text()

    names = ["one", "two", "three", "four", "five"]
    assert text(names[seed:] + names[:seed]) == text(names[::-1])


def test_the_summary_is_whose_masks_and_what_was_written():
    losses = LossReport("A format", Options(), source="masks: merged, over the predicted")
    losses.count_written("images", 2)
    losses.count_written("segments", 0)
    losses.count_lost("masks with holes filled")
    assert summary_of(losses.text()) == "masks: merged, over the predicted; 2 images, 0 segments"
    assert summary_of("of another program\n") == ""


def test_names_and_options_of_strangers_are_text_without_secrets():
    url = "https://me:hunter2@store/\x1b[2J\nWritten:\u202e"
    losses = LossReport("A format", Options(segments=url), ["\x9b"], source="\r")
    losses.name_lost("masks that are damaged", url)
    text = losses.text()
    assert "hunter2" not in text
    assert not set(text) & set("\x1b\r\x9b\u202e")
    assert text.splitlines().count("Written:") == 1
    assert losses.options_line in text.splitlines()  # by which the next export knows this one
