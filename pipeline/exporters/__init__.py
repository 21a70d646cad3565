"""Exporters of a run to other formats, one file per format; `--to` takes the file's name.

An exporter has `FOLDER`, `FILES` (a pattern of the names that it writes there, beside LOSSES.txt
and copies of images), `class Options(ExportOptions)` and `export(run, options) -> list[str]`. It
reads committed shards only, writes each file atomically below `FOLDER` of the run folder and
returns the paths (files, or the folder) that a user opens. `advice(run, options)`, where a format
has it, is what the user should do next, in one line. `shared.export.Export` does what all formats
do. The same run gives the same bytes: no clock, no paths of this machine. An exporter never imports
another one.
"""
