"""A backend is one class: memory, transfers, random numbers, and what `compile` makes of a list of operations."""

import numpy as np

from nnbp.graph.formula import Constant, Input, Value
from nnbp.graph.ops import Advance, Foreign, Gather, Gemm, Map, Reduce, Uniform


class PlainBackend:
    """Every operation is one NumPy expression, evaluated when its turn comes."""

    name = "plain"
    device = "plain"
    xp = np

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)

    def upload(self, host, dtype):
        return np.ascontiguousarray(host, dtype)

    def download(self, array):
        return array

    def owns(self, array):
        return isinstance(array, np.ndarray)

    def random_stream(self, key):
        return Stream(key)

    def compile(self, operations, times=1, runs=1):
        operations = list(operations)

        def run():
            for _ in range(times):
                for operation in operations:
                    execute(operation)

        return run

    def synchronize(self):
        pass

    def active(self):
        return np.errstate(all="ignore")


def execute(operation):
    """Computes one operation; its arrays exist already."""
    match operation:
        case Map(formula, inputs, outputs):
            for out, values in zip(outputs, evaluate(formula, inputs), strict=True):
                out[...] = values
        case Gemm(a, b, out):
            np.matmul(a, b, out=out)
        case Reduce("sum", a, axis, out):
            np.sum(a, axis=axis, keepdims=True, out=out)
        case Reduce("maximum", a, axis, out):
            np.max(a, axis=axis, keepdims=True, out=out)
        case Gather(source, order, counter, stride, out):
            start = counter[0] * stride
            out[...] = source[order[start : start + len(out)]]
        case Uniform(stream, out, offset):
            whole = np.empty((operation.count // operation.columns, operation.columns), np.float32)
            stream.fill(whole)
            out[...] = whole[:, offset : offset + out.shape[-1]].reshape(out.shape)
        case Advance(counter, count):
            counter += count
        case Foreign(function, arguments):
            function(*arguments)


def evaluate(formula, inputs):
    """The results of a formula, instruction by instruction."""
    values = []

    def value(operand):
        match operand:
            case Input(index):
                return inputs[index]
            case Value(index):
                return values[index]
            case Constant(number):
                return number

    for primitive, operands in formula.instructions:
        function = primitive.ufunc or np.where
        values.append(function(*map(value, operands)))
    return [value(result) for result in formula.results]


class Stream:
    """Uniform float32 numbers of NumPy's Philox generator, from any position on."""

    def __init__(self, key):
        self.key, self.position = key, 0
        self.state = np.empty(1)

    def fill(self, out):
        blocks, skipped = divmod(self.position, 8)  # a block of the generator has eight float32 numbers
        bits = np.random.Philox(key=np.array(self.key, np.uint64))
        numbers = np.random.Generator(bits.advance(blocks)).random(skipped + out.size, np.float32)
        out[...] = numbers[skipped:].reshape(out.shape)
        self.position += out.size
