"""The results of the benchmark as a page, as the table of the README, and as pictures."""
