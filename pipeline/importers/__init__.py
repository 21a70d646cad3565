"""Importers of reviews from annotation tools, one file per tool; `--from` takes the file's name.

An importer has `read(data, notes) -> Iterator[ToolImage]`: a statement on an image each, and notes
of the entries that cannot be read. It knows its tool's format and nothing of the run;
`pipeline.corrections.import_review` matches images, labels and predictions.
"""
