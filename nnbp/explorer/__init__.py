"""The explorer: the forward and backward pass of a real network on one page, or as text."""
