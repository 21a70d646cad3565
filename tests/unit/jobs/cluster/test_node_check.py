"""What a node says of the machine that submitted a job."""

import logging
import platform
from importlib import metadata

import pytest

from jobs.cluster.node_check import check_node

HERE = {
    "python": platform.python_version(),
    "ray": metadata.version("ray"),
    "ovseg": metadata.version("ovseg"),
    "code": "",
}
SHIPPED = HERE | {"code": "12ab34cd", "requires_python": ">=3.11", "requires": ["numpy>=2.0"]}


@pytest.mark.parametrize("sent", [HERE, SHIPPED])
def test_the_same_versions_are_no_news(
    sent: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    check_node(sent)
    assert not caplog.records


def test_what_differs_is_said(caplog: pytest.LogCaptureFixture) -> None:
    check_node(HERE | {"python": "3.12.4", "ray": "2.40.0", "ovseg": "0.0.9"})
    [record] = caplog.records
    said = record.getMessage()
    assert f"python {HERE['python']} here, 3.12.4 where the job was submitted" in said
    assert "2.40.0 where" in said
    assert "ovseg" in said.partition("0.0.9")[0]
    assert "`--ship` would send that ovseg along" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requires_python": ">=3.99"}, f"it needs Python >=3.99, and there is {HERE['python']}"),
        (
            {"requires": ["numpy>=99"]},
            f"it needs numpy>=99, and there is {metadata.version('numpy')}",
        ),
        ({"requires": ["no-such-library>=1"]}, "no-such-library is missing"),
    ],
)
def test_shipped_code_that_cannot_run_here_ends_in_one_line(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_node(SHIPPED | change)
    text = str(ended.value)
    assert text.startswith("error: the ovseg ")
    assert said in text
    assert "\n" not in text


def test_libraries_of_extras_and_other_systems_are_not_needed() -> None:
    only_elsewhere = ["s3fs>=999; extra == 's3'", "no-such-library; sys_platform == 'nowhere'"]
    check_node(SHIPPED | {"requires": only_elsewhere})
