"""The benchmark: `python -m bench` in a checkout times nnbp beside other libraries, on a CPU and on a GPU.

`cases` lists the networks. `measure` starts each library in a process of its own, perhaps with another interpreter, and
times all of them in turn; `report` turns the results into a page. `workers` and `peers` run in those processes, with
`cases` and `peer`. They import NumPy and the library alone, and this folder as `bench` without anything installed.
"""
