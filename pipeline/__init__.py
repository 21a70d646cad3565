"""The batch job: collections, shards, workers, run folders, exports; the only room with Ray."""
