"""Pure data: configuration, vocabulary, records, tables, errors. Imports no torch, ray or fsspec."""
