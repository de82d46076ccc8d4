"""The benchmark: training steps, predictions, memory and imports of nnbp beside other libraries.

Each library runs in a process of its own, perhaps in another interpreter, where this folder is the top-level package
`bench` (see `start.py`). A run on a GPU has its own cases, limit, pages and clock, `device_*.py`; peers and timing are
those of the CPU. What runs there (`worker`, `cases`, `peer`, `peers`) imports NumPy and that library alone.
"""
