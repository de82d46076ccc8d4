"""What the engine says to a backend: formulas, operations on buffers, and the protocol."""
