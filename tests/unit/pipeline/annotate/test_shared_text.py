"""Text rows that the workers of a job share."""

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovseg_core.segmenter import TextMatrix
from pipeline.annotate.shared_text import forget_text, shared_text


class Embed:
    """Makes rows that differ from call to call, and counts the calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> TextMatrix:
        self.count += 1
        rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(self.count))
        return TextMatrix(rows, torch.tensor([0, 1, 1]), 2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(one: TextMatrix, other: TextMatrix) -> None:
    assert torch.equal(one.rows_QD, other.rows_QD)
    assert torch.equal(one.class_index_Q, other.class_index_Q)
    assert (one.rows_QD.dtype, one.class_index_Q.dtype) == (torch.float32, torch.int64)
    assert one.num_classes == other.num_classes


@dataclass(frozen=True)
class LongTextMatrix(TextMatrix):
    """Rows of a method that also needs each token of a phrase."""

    tokens_QLD: Tensor
    num_tokens: int


@pytest.mark.usefixtures("cache")
def test_a_methods_own_kind_of_rows_arrives_as_it_was() -> None:
    plain = Embed()()
    tokens_QLD = torch.randn(3, 4, 5)
    own = LongTextMatrix(plain.rows_QD, plain.class_index_Q, 2, tokens_QLD, 4)
    shared_text(lambda: own, "job", "cpu")
    found = shared_text(Embed(), "job", "cpu")
    assert isinstance(found, LongTextMatrix)
    assert_same(found, own)
    assert torch.equal(found.tokens_QLD, tokens_QLD)
    assert found.num_tokens == 4


@pytest.mark.usefixtures("cache")
def test_workers_that_start_at_once_embed_once_and_have_the_same_bits() -> None:
    embed, found = Embed(), []

    def work() -> None:
        found.append(shared_text(embed, "job", "cpu"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert embed.count == 1
    for text in found:
        assert_same(text, Embed()())


def test_each_job_embeds_for_itself_and_leaves_nothing(cache: Path) -> None:
    embed = Embed()
    for job in ("one", "other", ""):
        shared_text(embed, job, "cpu")
    assert embed.count == 3
    forget_text("one")
    assert {file.name.partition(".")[0] for file in (cache / "text").iterdir()} == {"other"}


def test_a_damaged_file_is_made_again(cache: Path) -> None:
    first = shared_text(Embed(), "job", "cpu")
    file = cache / "text" / "job.npz"
    for content in (b"", b"no archive", file.read_bytes()[:-30]):
        file.write_bytes(content)
        assert_same(shared_text(Embed(), "job", "cpu"), first)


def test_without_a_cache_folder_each_worker_embeds(cache: Path) -> None:
    cache.write_text("a file in its place")
    embed = Embed()
    for _ in range(2):
        shared_text(embed, "job", "cpu")
    assert embed.count == 2
