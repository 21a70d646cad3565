"""Weights files of strangers: each is refused at once, in one line, with little memory."""

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ovseg_core.backbones.checkpoint import read_checkpoint, state_dict_in
from schemas.errors import WeightsError
from tests.helpers import hostile_weights

TABLES = {
    "new.pt": hostile_weights.PICKLES,
    "old.pt": hostile_weights.OLD_PICKLES,
    "w.safetensors": hostile_weights.SAFETENSORS,
}
SWEEP = """
import json, resource, sys, time
from ovseg_core.backbones.checkpoint import read_checkpoint
from schemas.errors import WeightsError
begin = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = begin + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for file in sys.argv[1:]:
    began = time.process_time()
    try:
        read_checkpoint(file)
        said = "it was read"
    except WeightsError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([file, said, time.process_time() - began]), flush=True)
"""
"""Reads files with 256 MB more than Python and torch have taken."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All hostile files, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("hostile")
    found: dict[str, Path] = {}
    for ending, table in TABLES.items():
        for number, (wrong, make) in enumerate(table.items()):
            file = folder / f"{number} {ending}"
            file.write_bytes(make())
            found[f"{ending}: {wrong}"] = file
    return found


@pytest.fixture(scope="module")
def answers(files: dict[str, Path]) -> dict[str, tuple[str, float]]:
    """What a process with little memory said of each file, and its seconds."""
    paths = [str(file) for file in files.values()]
    command = [sys.executable, "-c", SWEEP, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-500:])
    by_path = {file: (said, seconds) for file, said, seconds in lines}
    return {wrong: by_path[str(file)] for wrong, file in files.items()}


WRONGS = [f"{ending}: {wrong}" for ending, table in TABLES.items() for wrong in table]


@pytest.mark.parametrize("wrong", WRONGS)
def test_hostile_file_is_refused_in_one_line_at_once(
    wrong: str, files: dict[str, Path], answers: dict[str, tuple[str, float]]
) -> None:
    said, seconds = answers[wrong]
    assert said.startswith(f"{files[wrong]} is not a weights file")
    assert said.isprintable()
    assert len(said) < 600
    assert seconds < 2  # of the processor; a hundred times what most need


@pytest.mark.parametrize("is_new", [True, False])
def test_tensors_of_every_kind_are_read_as_they_were_written(is_new: bool, tmp_path: Path) -> None:
    base = torch.arange(60.0)
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    kinds += [torch.int8, torch.uint8, torch.bool]
    written = {str(kind): torch.arange(-3, 9).view(3, 4).to(kind) for kind in kinds} | {
        "view": base.view(5, 12)[1:4, 2::3],
        "turned": base.view(5, 12).t(),
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 7),
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "repeated": torch.arange(3).expand(1, 3),
    }
    torch.save(OrderedDict(written), tmp_path / "w.pt", _use_new_zipfile_serialization=is_new)
    read = state_dict_in(read_checkpoint(tmp_path / "w.pt"))
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"w": torch.full((50, 3), 7.0)}, file)
    data = bytearray(file.read_bytes())
    place = data.index(torch.full((9,), 7.0).numpy().tobytes())
    data[place + 5] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="a checksum does not fit"):
        read_checkpoint(file)
