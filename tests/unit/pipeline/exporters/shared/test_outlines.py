import pytest

from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError


@pytest.mark.parametrize("name", ["coco", "yolo_seg"])
@pytest.mark.parametrize("value", [-1, 1e31, float("inf"), float("nan")])
def test_tolerance_that_is_not_a_distance_is_refused(name, value):
    part = NamedOptions(name=name, options={"tolerance_px": value})
    with pytest.raises(ConfigError, match="tolerance_px"):
        plugins.read_options("pipeline.exporters", part, "export")
