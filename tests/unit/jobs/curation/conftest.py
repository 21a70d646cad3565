"""A run of drawn scenes and copies of some of them."""

import pytest

from pipeline.run.folder import RunFolder
from tests.helpers.copied_images import make_copied_run


@pytest.fixture(scope="session")
def copied_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """See `make_copied_run`."""
    return make_copied_run(tmp_path_factory.mktemp("copied"))
