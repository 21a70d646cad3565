"""The rows of a run's tables: those of older versions, and those that are damaged."""
