"""`ovseg import-review`: read a tool's corrected masks into the reviewed layer of a run.

A mask that equals a predicted segment was accepted. A mask that comes from a segment (the tool's
file names it, or by label or place) was changed. A mask without a segment was added. A segment
without a mask was rejected, unless a mask of a label that the run does not have lies there: then
nothing is known of it. The predictions are not changed.
"""

import logging
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal

from pydantic import BeforeValidator

from pipeline.corrections.frames import Frame, fitting_frame, possible_frames
from pipeline.corrections.import_report import ImportReport, Tally
from pipeline.corrections.imports import Imports, store_import
from pipeline.corrections.layer import ReviewedLayer, decision_on
from pipeline.corrections.log import ReviewLog
from pipeline.corrections.matching import (
    CorrectedMask,
    count_px,
    covered_segments,
    match,
    merge_by_label,
    restored,
    split_into_components,
    split_into_instances,
)
from pipeline.corrections.names import LabelNames
from pipeline.corrections.statements import (
    best_statement,
    seconds_of,
    silence_of,
    statements_by_path,
)
from pipeline.importers.shared.guess import guess_tool, is_coco_results
from pipeline.importers.shared.notes import WORDS, NoteKind, Notes
from pipeline.importers.shared.tool_file import ToolImage
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row, RunReader
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas import plugins
from schemas.base import Frozen
from schemas.errors import ConfigError, UserError
from schemas.records import MaskKind
from schemas.redact import redact
from schemas.review import (
    Prefer,
    ReviewDecision,
    ReviewedImage,
    ReviewedMask,
    ReviewKey,
    page_since_s,
)

logger = logging.getLogger(__name__)
PACKAGE = "pipeline.importers"
_MAY_STEM = 0.1
"""Share of a predicted segment under masks of unknown labels from which it may be one of them."""
_NAMED = 3
_MAX_NEAR = 100
"""Unknown labels for which a like one is looked for; each is compared with every label."""
_EDITED = (
    NoteKind.UNREADABLE, NoteKind.DROPPED_MASKS, NoteKind.REPEATED, NoteKind.WRONG_SIZE,
)  # fmt: skip
"""Notes of what no export of ours has: somebody has worked on the file."""


def _new_name(value: object) -> object:
    """Return `auto` for what it was called before."""
    return "auto" if value == "predictions" else value


class ImportRules(Frozen):
    """How a file is understood where it can be understood in two ways."""

    labels: dict[str, str] = {}
    """Labels of the run by the names that the tool gives them."""
    empty_means: Literal["unannotated", "reviewed"] = "unannotated"
    """Images of which the file has no entry."""
    unchanged_means: Annotated[
        Literal["auto", "unreviewed", "reviewed"], BeforeValidator(_new_name)
    ] = "auto"
    """Images that are as predicted, or as reviewed before, and of which nothing in the file says
    that a person has looked at them.
    `auto`: left out where the file marks others as checked; else they count, unless the file has no
    difference at all and is refused. `unreviewed`: left out. `reviewed`: they count."""
    prefer: Prefer = "newer"
    """What counts of an image on which the review page or an earlier import says otherwise."""


def import_review(
    run: RunFolder, tool: str, uri: str, rules: ImportRules | None = None
) -> ImportReport:
    """Read a tool's file and add it to the reviewed layer.

    Args:
        run: the run that was exported to the tool.
        tool: an importer's name; empty: the file's content tells.
        uri: the file, a path or URL.
        rules: how the file is understood.

    Raises:
        ConfigError: no such importer, or the content does not tell which.
        UserError: the file is missing, has another format (such as COCO's list of results), has no
            reviewed image of the run, or nothing in it differs from the predictions.
    """
    run.check_newest()
    data = b""
    if not tool:
        data = _read_file(uri)
        tool = _guessed(data, uri)
    importer = plugins.load_plugin(PACKAGE, tool.replace("-", "_"))
    importing = _Import(run, f"{tool}: {redact(uri)}", rules or ImportRules())
    max_px = RunReader(run).largest_px()
    importing.find(list(importer.read(data or _read_file(uri), importing.notes, max_px)))
    return importing.finish()


def _guessed(data: bytes, uri: str) -> str:
    if is_coco_results(data):
        raise UserError(
            f"{redact(uri)} is COCO's list of results, as results_segm.json, which names neither "
            "images nor labels: expected COCO's file of images, annotations and categories, as "
            "instances.json, which `ovseg export --to coco` writes beside it"
        )
    tool = guess_tool(data)
    if not tool:
        raise ConfigError(
            f"{redact(uri)}: expected the JSON of Label Studio or COCO, or CVAT's XML, alone or "
            "packed, and cannot tell which this is: give --from label_studio, coco or cvat"
        )
    logger.info("%s is read as --from %s, which its content looks like", redact(uri), tool)
    return tool


class _Import:
    """One import: find each image in the run, compare its masks, store them, count."""

    def __init__(self, run: RunFolder, source: str, rules: ImportRules) -> None:
        job = run.info.job()
        self.notes = Notes()
        self._run = run
        self._source = source
        self._rules = rules
        self._kind: MaskKind = run.mask_kind
        self._labels = LabelNames(job.vocabulary.names, rules.labels)
        self._predictions = Predictions(run)
        self._earlier = Imports(run)
        self._page: dict[str, dict[ReviewKey, ReviewDecision]] = {}
        for key, decision in ReviewLog(run).current().items():
            if decision.at_s > run.replaced_s.get(key.image_id, -1.0):
                self._page.setdefault(key.image_id, {})[key] = decision
        self._found: dict[str, list[ToolImage]] = {}
        self._frames: Counter[str] = Counter()
        self._images: list[ReviewedImage] = []
        self._masks: list[ReviewedMask] = []
        self._unknown_labels: Counter[str] = Counter()
        self._unlisted: list[str] = []
        self._leaves_unchanged = False
        self._set_back: list[str] = []
        self._differs_from_predictions = False
        self._differs_from_review = False
        self._review = ReviewedLayer(run, predictions=self._predictions)
        self._has_known = False
        self._tally = Tally(self._labels.names)
        self._num_unchanged = 0

    def find(self, images: Sequence[ToolImage]) -> None:
        """Find the images and labels of the file in the run."""
        listed = {self._labels.find(label) for label in self.notes.listed_labels}
        if self.notes.listed_labels:
            names = self._labels.names
            self._unlisted = [name for k, name in enumerate(names, start=1) if k not in listed]
        table = self._run.manifest()
        paths, ids = (table.column(name).to_pylist() for name in ("path", "image_id"))
        id_of_path = dict(zip(paths, ids, strict=True))
        found = statements_by_path(paths, images, self.notes)
        # Of an image without masks a mark says no more than that it is meant to have none.
        has_marks = any(image.is_checked and image.masks for image in images)
        means = self._rules.unchanged_means
        self._leaves_unchanged = means == "unreviewed" or (means == "auto" and has_marks)
        self._found = {id_of_path[path]: statements for path, statements in found.items()}

    def finish(self) -> ImportReport:
        """Compare the images with the predictions, in the run's order, and store the import."""
        untold: list[tuple[Row, ToolImage, list[Frame]]] = []
        for image_id in self._predictions.in_order(self._found):
            images = self._found.pop(image_id)
            row = self._predictions.image(image_id)
            if row is None:  # failed, or not annotated yet
                self.notes.add(NoteKind.UNKNOWN_IMAGES, images[0].name)
                continue
            chosen = self._choose(images, row)
            if chosen is None:
                continue
            frames = possible_frames(chosen, row)
            segments = self._predictions.segments(image_id)
            frame = fitting_frame(frames, chosen.masks, segments, row)
            if frame is None:
                untold.append((row, chosen, frames))
                continue
            self._frames[frame.kind] += len(frames) > 1
            self._add(row, chosen, frame)
        for row, image, frames in untold:  # what the tool did to other images
            self._add(row, image, max(frames, key=lambda frame: self._frames[frame.kind]))
        for theirs in self._rules.labels.keys() - self._labels.used:
            self.notes.add(NoteKind.UNUSED_FLAGS, theirs)
        self._check()
        self._note_replaced()
        return self._report(
            store_import(
                self._run,
                self._source,
                self._images,
                self._masks,
                self._rules.prefer,
                self._unlisted,
            )
        )

    def _choose(self, images: list[ToolImage], row: Row) -> ToolImage | None:
        """Return the statement that counts of those on one image, noting the others."""
        empty_means_reviewed = self._rules.empty_means == "reviewed"
        silent = [silence_of(image, empty_means_reviewed) for image in images]
        fitting = [bool(possible_frames(image, row)) for image in images]
        spoken = [
            image
            for image, silence, fits in zip(images, silent, fitting, strict=True)
            if silence is None and fits
        ]
        best = best_statement(spoken) if spoken else None
        for image, silence, fits in zip(images, silent, fitting, strict=True):
            if image is best:
                continue
            if not fits and image.size_hw is not None:
                text = f"{image.name}: {image.size_hw[1]} x {image.size_hw[0]} in the file, "
                text += f"{row['width']} x {row['height']} in the run"
                self.notes.add(NoteKind.WRONG_SIZE, text)
            elif best is not None or silence is None:
                text = f"{image.name}: with {len(image.masks)} masks"
                self.notes.add(NoteKind.REPEATED, text)
            else:
                has_masks = bool(self._masks_before(row))
                is_emptied = silence is NoteKind.UNANNOTATED and has_masks
                self.notes.add(NoteKind.EMPTIED if is_emptied else silence, image.name)
                self._differs(row["num_segments"] > 0, has_masks)
        self._differs(not any(fitting))
        seconds = seconds_of(images)
        return best and replace(best, seconds=seconds)

    def _add(self, row: Row, image: ToolImage, frame: Frame) -> None:
        """Compare the masks of an image with the predictions, and keep what people decided."""
        image_id, size_hw = row["image_id"], (row["height"], row["width"])
        predicted = self._predictions.segments(image_id)
        known, unknown = self._by_label(image, frame, row)
        self._differs(bool(unknown or self._unlisted or image.num_left_out) or image.is_checked)
        if unknown and not known and self._earlier.image(image_id) is not None:
            return  # the earlier import knows more of it
        if self._is_older(image_id, image):
            return
        self._has_known |= bool(known or not unknown)
        before = self._masks_before(row)
        known = restored(self._of_kind(known, predicted, size_hw), before, self._kind, size_hw)
        is_as_before = _contents(known) == _contents(before)
        masks = match(row, predicted, known, self._labels.names)
        kept = {mask.segment_index for mask in masks}
        least = _MAY_STEM if known else 0.0  # of an image without known masks nothing is known
        open_ones = covered_segments(predicted, unknown, least)
        open_ones = (open_ones | self._unlisted_segments(predicted)) - kept
        num_rejected = sum(row["segment_index"] not in kept | open_ones for row in predicted)
        is_changed = num_rejected > 0 or any(mask.verdict != "accepted" for mask in masks)
        is_marked = image.is_checked or self._rules.unchanged_means == "reviewed"
        is_silent = not (unknown or open_ones or is_marked)
        is_unchanged = is_silent and not is_changed
        if is_silent and self._leaves_unchanged and (is_as_before or not is_changed):
            self.notes.add(NoteKind.UNCHANGED, image.name)
            return
        was_corrected = image_id in self._review.images and not self._review.is_unchanged(image_id)
        is_set_back = is_unchanged and was_corrected and not is_as_before
        if is_set_back and self._earlier.image(image_id) is not None:
            self._set_back.append(image.name)
        is_checked = is_marked or was_corrected
        self._num_unchanged += is_unchanged and not was_corrected
        self._differs(is_changed, not is_as_before)
        reviewed = ReviewedImage(
            image_id=image_id,
            path=row["path"],
            source=self._source,
            seconds=image.seconds,
            num_rejected=num_rejected,
            told_at_s=image.told_at_s,
            num_unknown_masks=len(unknown),
            unknown_segments=tuple(sorted(open_ones)),
            is_checked=is_checked,
        )
        self._masks += masks
        self._images.append(reviewed)
        self._note(reviewed, image, frame, predicted, masks)
        self._tally.add(row, predicted, masks, image.seconds, open_ones)

    def _of_kind(
        self, known: list[CorrectedMask], predicted: list[Row], size_hw: tuple[int, int]
    ) -> list[CorrectedMask]:
        """Return an image's masks as masks of the run's kind."""
        if self._kind == "class":
            return merge_by_label(known, size_hw)
        if self._kind == "component":
            return split_into_components(known, predicted, size_hw)
        return split_into_instances(known, predicted, size_hw)

    def _differs(self, from_predictions: bool, from_review: bool | None = None) -> None:
        """Note whether the file says anything else than what may have been exported.

        Args:
            from_predictions: it differs from the run's own masks.
            from_review: it differs from these with the corrections; None: likewise.
        """
        self._differs_from_predictions |= from_predictions
        self._differs_from_review |= from_predictions if from_review is None else from_review

    def _masks_before(self, row: Row) -> list[CorrectedMask]:
        """Return an image's masks with the corrections until now, of which exports are made."""
        image_id = row["image_id"]
        outcomes = self._review.outcomes(image_id) or {}
        masks = [
            CorrectedMask(one["category_id"], one["rle_counts"], one["segment_index"])
            for one in self._predictions.segments(image_id)
            if one["segment_index"] not in outcomes
        ]
        masks += [
            CorrectedMask(mask.category_id, mask.rle_counts, mask.segment_index)
            for mask in self._review.masks(image_id)
        ]
        return masks

    def _unlisted_segments(self, predicted: Sequence[Row]) -> set[int]:
        """Return, and note, the segments of labels that the file does not list."""
        found = [row for row in predicted if row["label"] in self._unlisted]
        for row in found:
            self.notes.add(NoteKind.UNLISTED_LABELS, row["label"])
        return {row["segment_index"] for row in found}

    def _is_older(self, image_id: str, image: ToolImage) -> bool:
        """Return whether an earlier import of the image counts, and note it."""
        earlier = self._earlier.image(image_id)
        if earlier is None:
            return False
        before, now = earlier.told_at_s, image.told_at_s
        is_older = before is not None and now is not None and before > now
        is_older &= self._rules.prefer != "file"
        if is_older:
            self.notes.add(NoteKind.OLDER, earlier.path)
        return is_older

    def _by_label(
        self, image: ToolImage, frame: Frame, row: Row
    ) -> tuple[list[CorrectedMask], list[CorrectedMask]]:
        """Return an image's masks in the frame of the run: of known labels, of unknown ones."""
        known: list[CorrectedMask] = []
        unknown: list[CorrectedMask] = []
        size_hw = row["height"], row["width"]
        for mask in image.masks:
            counts = frame.counts(mask, size_hw)
            if not count_px(counts, size_hw):
                self.notes.add(NoteKind.DROPPED_MASKS, f"{image.name}: {mask.label}, empty")
                continue
            category_id = self._labels.find(mask.label)
            if category_id is None and not mask.label:
                self.notes.add(NoteKind.UNLABELLED, image.name)
            elif category_id is None:
                self.notes.add(NoteKind.UNKNOWN_LABELS, f"{image.name}: {mask.label}")
                self._unknown_labels[mask.label] += 1
            found = CorrectedMask(category_id or 0, counts, mask.segment_index)
            (unknown if category_id is None else known).append(found)
        return known, unknown

    def _note(
        self,
        reviewed: ReviewedImage,
        image: ToolImage,
        frame: Frame,
        predicted: Sequence[Row],
        masks: Sequence[ReviewedMask],
    ) -> None:
        if image.num_left_out:
            self.notes.add(NoteKind.OTHER_SHAPES, image.name, image.num_left_out)
        if frame.note or image.frame_note:
            self.notes.add(NoteKind.FRAMES, f"{image.name}: {frame.note or image.frame_note}")
        decisions = self._page.get(reviewed.image_id, {})
        since_s = page_since_s(self._rules.prefer, reviewed, time.time())
        ours = {mask.segment_index: mask for mask in masks}
        for row in predicted:
            decision = decision_on(row, decisions)
            index = row["segment_index"]
            if decision is None or index in reviewed.unknown_segments:
                continue
            mask = ours.get(index)
            if not _agree(decision, row, mask):
                counts = decision.at_s > since_s
                kind = NoteKind.PAGE_KEPT if counts else NoteKind.PAGE_OVERRIDDEN
                self.notes.add(kind, f"{reviewed.path}: {row['label']}")

    def _note_replaced(self) -> None:
        """Note what the file takes the place of, now that it is taken."""
        for image in self._images:
            if self._earlier.image(image.image_id) is not None:
                self.notes.add(NoteKind.REPLACED, image.path)
        for name in self._set_back:
            self.notes.add(NoteKind.SET_BACK, name)

    def _check(self) -> None:
        """Refuse a file of which nothing was taken, or that is only the predictions again.

        Raises:
            UserError: names what was found instead.
        """
        if not self._images or not self._has_known:
            raise UserError(
                f"nothing of the file was taken: it has no reviewed image of the run{self._why()}"
            )
        differs = self._differs_from_predictions and self._differs_from_review
        is_new = differs or self._labels.used or any(self.notes[kind] for kind in _EDITED)
        if not is_new and self._rules.unchanged_means == "auto":
            raise UserError(
                f"nothing was imported: nothing in the file differs from {self._same_as()} (the "
                f"masks of {len(self._images)} images are the same): {self._what_it_is()}; if "
                f"somebody has checked all of it, --unchanged-means reviewed{self._why()}"
            )

    def _same_as(self) -> str:
        return "what was reviewed before" if self._differs_from_predictions else "the predictions"

    def _what_it_is(self) -> str:
        before = dict.fromkeys(self._earlier.import_id(image.image_id) for image in self._images)
        named = [identity for identity in before if identity]
        if not (named and self._differs_from_predictions):
            return "it is an export that nobody has corrected"
        shown = ", ".join(named[:_NAMED]) + ", ..." * (len(named) > _NAMED)
        return (
            f"it was imported already (as {shown}; `ovseg import-review RUN --list` shows all), "
            "or it is an export with those corrections that nobody has changed since"
        )

    def _why(self) -> str:
        """Return in words what was noted, with the first few of each kind, and what to do."""
        parts = [
            f"{WORDS[kind]}: {note.count} ({', '.join(note.first[:_NAMED])})"
            for kind, note in self.notes.report().items()
        ]
        if self._unknown_labels:
            named = list(self._unknown_labels)[:_NAMED]
            pairs = [f"{label}={self._labels.near(label) or 'LABEL'}" for label in named]
            flags = " ".join(f"--label {shlex.quote(pair)}" for pair in pairs)
            parts.append(f"to say which labels they are: {flags}")
        return "".join(f"; {part}" for part in parts)

    def _report(self, identity: str) -> ImportReport:
        seconds = [image.seconds for image in self._images if image.seconds is not None]
        some = islice(self._unknown_labels, _MAX_NEAR)
        near = {label: self._labels.near(label) for label in some}
        return ImportReport(
            id=identity,
            source=self._source,
            labels=self._tally.labels(),
            num_images=len(self._images),
            num_partly=sum(not image.is_complete for image in self._images),
            num_unchanged=self._num_unchanged,
            num_of_earlier=len(self._earlier.images().keys() - {i.image_id for i in self._images}),
            num_images_with_time=len(seconds),
            minutes=sum(seconds) / 60,
            unknown_labels=dict(self._unknown_labels),
            near_labels={label: name for label, name in near.items() if name is not None},
            damaged=self._review.left_out(),
            notes=self.notes.report(),
        )


def _contents(masks: Sequence[CorrectedMask]) -> Counter[tuple[int, str]]:
    """Return label number and RLE of masks, and how often each is there."""
    return Counter((mask.category_id, mask.rle_counts) for mask in masks)


def _agree(decision: ReviewDecision, row: Row, mask: ReviewedMask | None) -> bool:
    """Return whether a decision of the review page and a file say the same of a segment."""
    if decision.action == "reject" or mask is None:
        return decision.action == "reject" and mask is None
    is_same_mask = mask.rle_counts == row["rle_counts"]
    return is_same_mask and mask.label == (decision.new_label or row["label"])


def _read_file(uri: str) -> bytes:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    if not name:
        raise UserError(f"{redact(uri)} is a folder: expected the file that the tool exported")
    try:
        return Folder(folder).read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"{redact(uri)}: there is no such file") from error
