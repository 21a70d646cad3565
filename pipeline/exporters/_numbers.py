"""Many small whole numbers as text: several times faster than one by one."""

import numpy as np
import orjson
from numpy.typing import NDArray


def text(values: NDArray[np.integer]) -> str:
    """Return numbers as `",".join(map(str, values))` does."""
    array = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    return array[1:-1].decode("ascii")
