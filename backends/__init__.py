"""The backends that nnbp ships, installed as `nnbp.backends` and found through its entry-point group."""
