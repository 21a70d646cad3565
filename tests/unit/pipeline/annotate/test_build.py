"""From a job's configuration to a segmenter with the hashes of its weights."""

import pytest

from pipeline.annotate.build import build
from schemas.config import JobConfig
from schemas.errors import ConfigError, WeightsError


def job_config(**changes: object) -> JobConfig:
    fields = {"images": "/data", "out": "/run", "labels": ["cat"], "clip": {"model": "embedded"}}
    return JobConfig.model_validate({**fields, "method": "maskclip", **changes})


def test_build_returns_the_weights_in_use() -> None:
    built = build(job_config(), "cpu")
    assert built.weights.pop("clip.activation") == "GELU"
    assert built.weights
    assert all(len(digest) == 64 for digest in built.weights.values())
    config = job_config()
    assert built.segmenter.text_matrix(config.vocabulary).rows_QD.device.type == "cpu"


def test_build_of_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="maskclip"):
        build(job_config(method="maskclp"), "cpu")


def test_build_without_weights_is_refused() -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        build(job_config(clip={"model": "local-dir:nowhere"}), "cpu")
