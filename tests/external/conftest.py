"""One Label Studio for all tests of it: its first start takes most of the time."""

from collections.abc import Iterator

import pytest

from tests.external import label_studio


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Server]:
    with label_studio.serving(tmp_path_factory.mktemp("studio")) as server:
        yield server
