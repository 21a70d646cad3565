"""What a worker says of its work while it goes on, for metrics and estimates."""

from schemas.records import ShardDone, ShardRows, ShardTally


class Observer:
    """Is told what a worker does; this base does nothing with it."""

    def image_read(self, num_bytes: int) -> None:
        """Note the size of a file that was read; called in the threads that read."""

    def batch_scored(self, num_images: int, num_loaded: int) -> None:
        """Note a batch.

        Args:
            num_images: whose scores were computed at once.
            num_loaded: that are read or being read meanwhile, and are in no batch yet.
        """

    def image_done(self, rows: ShardRows) -> None:
        """Note the rows of one image; called in the thread of `annotate`."""

    def shard_done(self, marker: ShardDone, tally: ShardTally) -> None:
        """Note a committed shard.

        Args:
            marker: of the shard.
            tally: of the images that were annotated now.
        """
