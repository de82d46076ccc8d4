"""Which devices there are, whether they work, and which one is taken."""
