"""The version of nnbp, in one place, and those of other distributions."""

from __future__ import annotations

__version__ = "0.1.0"


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    # Here, not above: the import is slow, and `import nnbp` is to be quick.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
