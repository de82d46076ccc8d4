"""The CuPy backend; importing this package imports no CuPy."""
