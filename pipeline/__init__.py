"""The batch job: collections, shards, workers, run folders, exports. The only rooms that know storage and Ray."""
