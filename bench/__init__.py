"""The benchmark: training steps, predictions, memory and imports of nnbp beside other libraries.

`python -m bench` in a checkout runs it. Each library runs in a process of its own, perhaps with another interpreter,
which imports this folder as `bench` without anything installed (see `start.py`). A run on a GPU has its own cases,
limit, pages and clock, `device_*.py`; peers and timing are those of the CPU. The modules of such a process (`worker`,
`cases`, `peer`, `peers`) import NumPy and that library alone.
"""
