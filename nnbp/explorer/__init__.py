"""The explorer: the forward and backward pass of a network on one page, or as text."""
