"""From a listing through every exporter under any legal file names: no mask lost or moved."""

import html
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.collection.collect import collect
from pipeline.run.folder import RunFolder
from schemas import plugins
from schemas.config import ImageConfig
from schemas.untrusted import is_relative_path, printable
from tests.helpers.drawn_runs import LABELS, Scene, label_map, make_run
from tests.helpers.exported_masks import READERS, run_masks

PACKAGE = "pipeline.exporters"
OPTIONS = {"yolo_seg": {"copy_images": True}}
SHORT = st.text(st.sampled_from("aAé猫1 %#?*[]&;:='\"<>|\\~$`\n\t\u202e_-."), max_size=6)
LONG = st.tuples(st.sampled_from("nü猫."), st.integers(225, 255)).map(
    lambda drawn: (drawn[0] * drawn[1]).encode()[: drawn[1]].decode(errors="ignore")
)
ENDINGS = st.sampled_from([".png", ".PNG", ".jpg.png", ".bmp", ".jpeg", ".tif"])


def _fits(parts: tuple[str, str, str]) -> str:
    """Return a name of at most 255 bytes that no rule of the listing leaves out."""
    folder, stem, ending = parts
    name = f"x{stem}".encode()[: 255 - len(ending)].decode(errors="ignore") + ending
    return f"y{folder.strip()[:60]}y/{name}" if folder else name


PATHS = st.lists(
    st.tuples(SHORT, SHORT | LONG, ENDINGS).map(_fits).filter(is_relative_path),
    min_size=2,
    max_size=5,
    unique=True,
)


@settings(max_examples=8)
@given(paths=PATHS)
def test_every_exporter_holds_every_mask_under_its_image(paths):
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), [Scene(path, label_map(i)) for i, path in enumerate(paths)])
        listed = collect(f"{folder}/photos", ImageConfig()).column("path").to_pylist()
        assert sorted(listed) == sorted(paths)
        masks = run_masks(run)
        for name in plugins.names(PACKAGE):
            exporter = plugins.load_plugin(PACKAGE, name)
            exporter.export(run, exporter.Options.model_validate(OPTIONS.get(name, {})))
            if name in READERS:
                assert sorted(READERS[name](run)) == masks, name
        assert _labels_of_yolo_copies(run, Path(folder, "photos")) == {
            (path, LABELS.index(label)) for path, label, _ in masks
        }
        page = run.folder.read_bytes("exports/gallery/index.html").decode()
        assert [path for path in paths if html.escape(printable(path)) not in page] == []


def _labels_of_yolo_copies(run: RunFolder, photos: Path) -> set[tuple[str, int]]:
    """Return (path, label number) as Ultralytics finds them for the copied photographs."""
    digests = {file.read_bytes(): str(file.relative_to(photos)) for file in _files(photos)}
    copies = Path(run.folder.uri, "exports/yolo_seg/images")
    found = set()
    for copy in _files(copies):
        labels = Path(str(copies).replace("/images", "/labels"), copy.relative_to(copies))
        lines = labels.with_name(labels.name.rpartition(".")[0] + ".txt").read_text().splitlines()
        found |= {(digests[copy.read_bytes()], int(line.split()[0])) for line in lines}
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
