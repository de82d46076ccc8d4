"""The libraries that are compared, one per file; `bench.peer` finds them by listing this folder."""
