"""Archives of images, read in place: one file per kind, found by its name.

An archive is one file that holds many images, its members. It is read as a folder with its name;
nothing is unpacked. A kind has

- `ENDINGS`: of the archive's name, in small letters;
- `members(file)`: lists the archive by reading as little as it can, and yields `Member`s;
  `file.column` is the user's column of a table;
- `content(member, read, max_bytes)`: returns a member as the content of an image file;
- `span(member)`: the part of the archive that `content` reads, so that neighbours are fetched by
  one request (`pipeline.collection.read_ahead`); None where it is no part of its own.

`ARCHIVE#KIND=A+B/NAME` is a member's URI (`pipeline.storage.uris`); A and B are the kind's own.
"""
