"""What runs in the process of a library. Only NumPy and that library are imported here."""
