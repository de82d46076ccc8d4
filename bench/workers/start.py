"""Starts a worker in any Python interpreter, with this checkout's `bench` as a package: start.py THREADS [PEER].

Nothing has to be installed there, and nothing else of the checkout becomes importable.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> int:
    """Makes the package and runs its worker."""
    workers = Path(__file__).resolve().parent
    # A script's folder is searched first: a module there could hide one of the library.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != workers]
    folder = workers.parent
    spec = spec_from_file_location("bench", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None, "a file has a spec"
    assert spec.loader is not None, "a file's spec has a loader"
    package = module_from_spec(spec)
    sys.modules["bench"] = package
    spec.loader.exec_module(package)
    return int(import_module("bench.workers.session").main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
