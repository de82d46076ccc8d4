"""The interface between engine and backends: formulas, operations on buffers, and the protocol."""
