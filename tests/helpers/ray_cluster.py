"""One small Ray cluster for all tests that need one: starting it takes longer than they do."""

import gc
import os
import warnings

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster():
    """A cluster of four logical cores; `job.run` uses the one that runs."""
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # Ray's own
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its processes
        ray.shutdown()
        gc.collect()
