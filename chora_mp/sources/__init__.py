"""Sources: everything that turns a file, a database or a callable into spans of records.

`jsonl` cuts a JSONL file by bytes; `readers` read everything else, once, into a `spool`.
"""
