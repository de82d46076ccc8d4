"""Model files: every value comes back, nothing else is let in, and a crash leaves a file that can be read."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modelfile_samples import described, forged, parts, same, shapes_of, small

from nnbp.errors import ModelFileError
from nnbp.nn import activations, initializers, losses
from nnbp.nn.activations import ELU, Activation, LeakyReLU, Softmax
from nnbp.nn.initializers import Initializer
from nnbp.nn.layers import Dense, Dropout, Layer, named
from nnbp.nn.losses import Huber, Loss, Quantile
from nnbp.serialization import model_file
from nnbp.serialization.model_file import ModelFile, build_layers, read, write

BUILT_IN: dict[Any, list[Any]] = {
    base: [cls for cls in base.registry.values() if cls.__module__ == module.__name__]
    for base, module in ((Activation, activations), (Loss, losses), (Initializer, initializers))
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def registries() -> Iterator[None]:
    """Takes classes that a test defines out of the registries again."""
    kept = [(base.registry, dict(base.registry)) for base in BUILT_IN]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


# ---- what is written comes back

unit_interval = st.floats(0, 1, exclude_min=True, exclude_max=True)


@st.composite
def model_files(draw: st.DrawFn) -> ModelFile:
    loss = draw(st.sampled_from(BUILT_IN[Loss]).map(lambda cls: cls()) | st.builds(Quantile, unit_interval))
    plain = [cls for cls in BUILT_IN[Activation] if cls is not Softmax]
    activation = (
        st.sampled_from(plain).map(lambda cls: cls())
        | st.builds(LeakyReLU, unit_interval)
        | st.builds(ELU, st.floats(1e-300, 1e300))
    )
    initializer = st.none() | st.sampled_from([cls.name for cls in BUILT_IN[Initializer]])
    dense = st.builds(Dense, st.integers(1, 4), activation, initializer=initializer)
    hidden: list[Layer] = draw(st.lists(dense | st.builds(Dropout, st.floats(0, 0.99)), max_size=4))
    output = activation if loss.requires is None else st.just(loss.requires)
    layers = [*hidden, draw(st.builds(Dense, st.integers(2, 4), output))]
    dtype, n_in = draw(st.sampled_from(["float32", "float64"])), draw(st.integers(1, 4))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32 if dtype == "float32" else 64)
    arrays = {name: draw(hnp.arrays(dtype, shape, elements=numbers)) for name, shape in shapes_of(layers, n_in).items()}
    finite = st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | finite | st.text(st.characters())
    plain_json = st.recursive(leaves, lambda more: st.lists(more) | st.dictionaries(st.text(), more), max_leaves=8)
    extra = draw(st.dictionaries(st.text(), plain_json, max_size=3))
    decay, seed = draw(st.floats(0, 1e300)), draw(st.integers(0, 2**128))
    return ModelFile(described(layers, loss, n_in, dtype, decay, seed), arrays, extra)


@given(model_files())
@settings(max_examples=80, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, given_file: ModelFile) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip"
    write(path, given_file)
    found = read(path)
    assert same(found, given_file)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in found.arrays.values())
    layers, loss = build_layers(found.architecture)
    assert described(layers, loss, found.architecture["n_in"])["layers"] == given_file.architecture["layers"]
    assert named(loss) == given_file.architecture["loss"]
    theirs = safetensors.numpy.load_file(path)
    assert all(np.array_equal(theirs[name], array) for name, array in given_file.arrays.items())


def test_objects_are_built_with_their_arguments() -> None:
    layers, loss = build_layers(described([Dense(3, LeakyReLU(0.125)), Dropout(0.5), Dense(1, "tanh")], Huber(2.5), 2))
    first, dropout, last = layers
    assert isinstance(first, Dense)
    assert (first.units, first.f, first.initializer) == (3, LeakyReLU(0.125), None)
    assert isinstance(dropout, Dropout)
    assert dropout.rate == 0.5
    assert isinstance(last, Dense)
    assert (last.units, last.f.name, loss) == (1, "tanh", Huber(2.5))


@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_written_by_value_however_they_lie(path: Path, dtype: str, arrange: Callable[[Any], Any]) -> None:
    base = small(dtype)
    given_file = ModelFile(base.architecture, {name: arrange(array) for name, array in base.arrays.items()})
    write(path, given_file)
    for name, array in read(path).arrays.items():
        assert array.dtype == dtype
        assert np.array_equal(array, given_file.arrays[name])


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
def test_paths_of_all_kinds_without_a_suffix(path: Path, form: Callable[[Path], Any]) -> None:
    write(form(path), small())
    assert same(read(form(path)), small())
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_the_file_says_what_wrote_it(path: Path) -> None:
    write(path, small())
    header, content, _ = parts(path.read_bytes())
    assert set(header) == {"__metadata__", "W1", "b1", "W2", "b2"}
    assert set(header["__metadata__"]) == {"nnbp"}
    assert content["format_version"] == 2
    assert re.fullmatch(r"\d+\.\d+.*", content["nnbp_version"])
    first = path.read_bytes()
    write(path, small())
    assert path.read_bytes() == first


def test_files_of_version_1_can_be_read(path: Path) -> None:
    """They have no state."""

    def aged(header: Any, content: Any) -> None:
        for name in ("state", "sha256"):
            del content[name]
        content["format_version"] = 1
        content["sha256"] = model_file._digest(content, small().arrays)

    write(path, small())
    path.write_bytes(forged(path.read_bytes(), aged))
    found = read(path)
    assert same(found, small())
    assert found.state is None


# ---- damage and attacks

VALID = small("float32")
VALID_BYTES = model_file._encode(VALID)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_are_the_same_model_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    raw = bytearray(VALID_BYTES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        # Half of the changes are characters that keep JSON whole.
        raw[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789",:{}[]eE. -'))
    cut = data.draw(st.just(len(raw)) | st.integers(0, len(raw)))
    path.write_bytes(bytes(raw[:cut]) + data.draw(st.binary(max_size=4) if cut < len(raw) else st.just(b"")))
    try:
        found = read(path)
    except ModelFileError:
        return
    assert same(found, VALID)


def test_every_flipped_bit_of_a_parameter_is_found(path: Path) -> None:
    start = 8 + int.from_bytes(VALID_BYTES[:8], "little")
    for at in range(start, len(VALID_BYTES)):
        raw = bytearray(VALID_BYTES)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        with pytest.raises(ModelFileError, match="its checksum does not fit its content"):
            read(path)


# ---- classes of one's own


@pytest.mark.usefixtures("registries")
def test_own_classes_are_named_by_the_caller(path: Path) -> None:
    class Softsign(Activation):
        name = "softsign"

        def __init__(self, k: int = 1) -> None:
            self.k = k

        def f(self, z: Any) -> Any:
            return z / (self.k + abs(z))

        def df(self, z: Any, a: Any) -> Any:
            return self.k / (self.k + abs(z)) ** 2

    class Quartic(Loss):
        name = "quartic"

        def cost(self, h: Any, y: Any) -> Any:
            return (h - y) ** 4

        def dcost(self, h: Any, y: Any) -> Any:
            return 4.0 * (h - y) ** 3

    class Ones(Initializer):
        name = "ones"

        def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Any:
            return np.ones((n_out, n_in))

    architecture = described([Dense(2, Softsign(2), initializer=Ones())], Quartic(), 1)
    given_file = ModelFile(architecture, {"W1": np.ones((2, 1)), "b1": np.zeros(2)})
    write(path, given_file)
    some: list[tuple[list[type], str]] = [([], "activation"), ([Softsign], "initializer"), ([Softsign, Ones], "loss")]
    for custom, missing in some:
        with pytest.raises(
            ModelFileError, match=f"Unknown {missing}: .*If this {missing} is a class of your own, pass it"
        ):
            read(path, custom)
    custom = [Quartic, Ones, Softsign]
    assert same(read(path, custom), given_file)
    (layer,), loss = build_layers(architecture, custom)
    assert isinstance(layer, Dense)
    assert isinstance(layer.f, Softsign)
    assert (layer.f.k, type(layer.initializer), type(loss)) == (2, Ones, Quartic)


@pytest.mark.usefixtures("registries")
def test_a_class_of_a_name_that_nnbp_has_is_refused_where_the_name_is_used(path: Path) -> None:
    class Tanh(activations.Tanh):  # type: ignore[misc]
        """It has the name of its base."""

        def f(self, z: Any) -> Any:
            return 0.0 * z

        def df(self, z: Any, a: Any) -> Any:
            return 0.0

    write(path, small())
    assert same(read(path, [Tanh]), small())
    used = described([Dense(2, "tanh")], Huber(), 1)
    message = "'tanh' is the name of two: one of nnbp, and .*Tanh. Give your class another name"
    with pytest.raises(ModelFileError, match=message):
        build_layers(used, [Tanh])
    # Without being asked to, reading takes nnbp's own class, whatever the registry says.
    (layer,), _ = build_layers(used)
    assert isinstance(layer, Dense)
    assert type(layer.f) is activations.Tanh
    assert same(read(path, [activations.Tanh]), small())


@pytest.mark.usefixtures("registries")
def test_an_object_that_its_config_does_not_describe_is_not_written(path: Path) -> None:
    class Scaled(Activation):
        name = "scaled"

        def __init__(self, scale: float) -> None:
            self.double = 2 * scale

        def f(self, z: Any) -> Any:
            return self.double * z

        def df(self, z: Any, a: Any) -> Any:
            return self.double

    arrays = {"W1": np.ones((2, 1)), "b1": np.zeros(2)}
    with pytest.raises(ModelFileError, match="unexpected keyword argument 'double'"):
        write(path, ModelFile(described([Dense(2, Scaled(1.0))], Huber(), 1), arrays))


@pytest.mark.parametrize("item", [Dense, int, "tanh", ELU(), Activation])
def test_custom_takes_classes_only(path: Path, item: Any) -> None:
    with pytest.raises(TypeError, match=r"`custom` lists classes .* Pass the class: custom=\[MyActivation\]"):
        read(path, [item])


# ---- crashes

WRITER = """
import sys
import numpy as np
from nnbp.serialization.model_file import ModelFile, read, write

path = sys.argv[1]
architecture = read(path).architecture
models = [ModelFile(architecture, {"W1": np.full((512, 512), v), "b1": np.full(512, v)}) for v in (0.0, 1.0)]
print("ready", flush=True)
while True:
    for model in models:
        write(path, model)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_leaves_a_file_that_can_be_read(path: Path) -> None:
    architecture = described([Dense(512, "tanh")], Huber(), 512)
    write(path, ModelFile(architecture, {"W1": np.zeros((512, 512)), "b1": np.zeros(512)}))
    rng = random.Random(0)
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.05))
            process.kill()
        arrays = read(path).arrays
        value = arrays["b1"][0]
        assert value in (0.0, 1.0)
        assert all((array == value).all() for array in arrays.values())
