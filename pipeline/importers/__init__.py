"""Reviews read back from annotation tools, one file each; its name is what `--from` takes.

An importer has `read(data) -> Iterator[ToolImage]`: it knows its tool's format and nothing of the
run. Names, labels, frames and what became of the predictions are
`pipeline.corrections.import_review`'s.
"""
