"""Pure data: configuration, vocabulary, records, tables, errors. No torch, ray or fsspec."""
