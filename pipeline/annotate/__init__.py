"""One worker's part: shards in, rows out."""
