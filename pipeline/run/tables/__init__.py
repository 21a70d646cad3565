"""The rows of a run's tables: those of older versions, those that no run has, damaged masks."""
