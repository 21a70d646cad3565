from tests.helpers.ray_cluster import ray_cluster

__all__ = ["ray_cluster"]
