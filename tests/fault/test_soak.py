"""A few trials of `tests.fault.soak`, which runs hundreds by hand."""

import pytest

from tests.fault.soak import Soak

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def soak(tmp_path_factory, s3_endpoint):
    soak = Soak(tmp_path_factory.mktemp("soak"), s3_endpoint)
    yield soak
    soak.close()


@pytest.mark.parametrize(
    ("place", "seed"), [("disk", 4), ("disk", 16), ("bucket", 9), ("bucket", 25)]
)
def test_same_command_ends_in_the_same_tables(soak, place, seed):
    trial = soak.run(place, seed)
    assert not trial.problem, trial
    assert trial.silence_s < 60
