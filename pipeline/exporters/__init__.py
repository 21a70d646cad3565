"""Datasets written from a finished run, one file each; the file's name is what `--to` takes.

An exporter has `FOLDER`, `class Options(Frozen)` and `export(run, options) -> list[str]`. It
reads done markers only, writes each file whole (locally first, then one put) below `FOLDER` of
the run folder and returns the paths of those a user wants. The same run gives the same bytes: no
clock, no paths of this machine. It never imports another exporter.
"""
