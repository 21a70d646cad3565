"""Importers of reviews from annotation tools, one file per tool; `--from` takes the file's name.

An importer has `read(data, notes, max_px) -> Iterator[ToolImage]`: a statement on an image each,
and notes of the entries that cannot be read. It knows its tool's format, and of the run only how
large an image may be; `pipeline.corrections.import_review` matches images, labels and predictions.
"""
