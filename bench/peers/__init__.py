"""The peers, one a file; they are found by listing this folder."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..peer import Peer

__all__ = ["known", "load", "names"]


def names(device: str = "cpu") -> list[str]:
    """Names of all peers that run on such a device, nnbp first."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    kind = device.partition(":")[0]
    able = [name for name in found if kind in _class(import_module(f".{name}", __name__)).devices]
    return sorted(able, key=lambda name: name != "nnbp")


def known(name: str, device: str = "cpu") -> None:
    """Passes the name of a peer that runs on such a device, or the path of a file that is there and ends in .py.

    Raises:
        ValueError: it is neither.
    """
    if name not in names(device) and not (name.endswith(".py") and Path(name).is_file()):
        raise ValueError(
            f"A peer on {device} is one of {', '.join(names(device))}, or a file that ends in .py; received {name!r}."
        )


def load(name: str) -> type[Peer]:
    """The class of a peer.

    Args:
        name: of a file in this folder; or the path of a file of one's own, which ends in .py and imports `Peer` from
            `bench.peer`.

    Raises:
        ValueError: there is no such peer, or not one class in its file.
    """
    if name.endswith(".py") and Path(name).is_file():
        return _class(_from_file(Path(name)))
    if not (Path(__file__).parent / f"{name}.py").is_file():
        known(name)
    return _class(import_module(f".{name}", __name__))


def _class(module: ModuleType) -> type[Peer]:
    found = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, Peer) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(f"The file of a peer has one subclass of Peer; {module.__file__} has {len(found)}.")
    return found[0]


def _from_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"bench_peer_{path.stem}", path)
    assert spec is not None, "a file has a spec"
    assert spec.loader is not None, "a file's spec has a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
