"""The explorer in a terminal: one sample's path through a network and back, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from nnbp.explorer.explanation import Explanation, slope, stated
from nnbp.formatting import table
from nnbp.nn.layers import Dense

_IN_FULL = 8
"""The most units of a layer, and terms of a sum, that are written out."""


def walk(explanation: Explanation, *, sample: int = 0, learning_rate: float = 0.1, language: str = "en") -> str:
    """One sample as text: forward pass, cost, backward pass, gradient, batch and update, with the numbers of the page.

    Args:
        explanation: see `nnbp.explorer.explanation.explained`.
        sample: its index among the samples of the explanation.
        learning_rate: η of the update.
        language: "en" or "zh".
    """
    lines = _Walk(explanation, sample, language)
    parts = [
        ("phase_input", lines.inputs()),
        ("phase_forward", lines.forward()),
        ("phase_cost", lines.cost()),
        ("phase_backward", lines.backward()),
        ("phase_gradient", lines.gradient()),
        ("phase_batch", lines.batch()),
        ("phase_update", lines.update(learning_rate)),
    ]
    head = lines.say("sample_of", k=sample + 1, m=len(explanation.rows))
    sizes = " – ".join(map(str, explanation.sizes))
    return "\n".join([f"{sizes}. {head}", *(line for key, part in parts for line in ("", lines.say(key), *part))])


class _Walk:
    """The lines of each part."""

    def __init__(self, explanation: Explanation, sample: int, language: str) -> None:
        self.explanation, self.sample = explanation, sample
        texts = json.loads(files("nnbp.explorer").joinpath("static/texts.json").read_text(encoding="utf-8"))
        self.texts: dict[str, str] = texts[language]
        self.first, self.sizes = explanation.first_units, explanation.sizes
        self.last = len(self.sizes) - 1
        network = explanation.network
        self.W: list[NDArray[np.float64] | None] = [None] * (self.last + 1)
        self.b: list[NDArray[np.float64] | None] = [None] * (self.last + 1)
        dense = iter(zip(network.weights, network.biases, strict=True))
        for l, layer in enumerate(explanation.layers, start=1):
            if isinstance(layer, Dense):
                self.W[l], self.b[l] = next(dense)

    def a(self, l: int) -> NDArray[np.float64]:
        """The outputs of a layer; those of the input units for 0."""
        found: NDArray[np.float64] = (self.explanation.trace.a[l] if l else self.explanation.inputs)[self.sample]
        return found

    def delta(self, l: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.explanation.gradients.delta[l - 1][self.sample]
        return found

    def z(self, l: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.explanation.trace.z[l][self.sample]
        return found

    def say(self, key: str, **values: object) -> str:
        return self.texts[key].format(**values)

    def place(self, l: int) -> str:
        return self.say("output_unit") if l == self.last else self.say("hidden_unit", l=l)

    def units(self, l: int) -> Iterator[tuple[int, list[str]]]:
        """The index of each unit that is written out, and its heading."""
        for i in range(min(self.sizes[l], _IN_FULL)):
            yield i, [f"  {self.say('unit_title', u=self.first[l] + i, place=self.place(l))}"]

    def rest(self, l: int) -> list[str]:
        left = self.sizes[l] - _IN_FULL
        return [f"  {self.say('text_more', n=left)}"] if left > 0 else []

    def sum(self, terms: Sequence[tuple[str, float, float]], ends: Sequence[tuple[str, str]]) -> list[str]:
        """The terms of a sum, the largest ones if there are many, and the values that follow from it."""
        order = sorted(range(len(terms)), key=lambda k: -abs(terms[k][1] * terms[k][2]))[:_IN_FULL]
        rows = [
            (terms[k][0], _shown(terms[k][1]), "×", _shown(terms[k][2]), "=", _shown(terms[k][1] * terms[k][2]))
            for k in sorted(order)
        ]
        if len(terms) > len(order):
            left = sum(terms[k][1] * terms[k][2] for k in set(range(len(terms))).difference(order))
            rows.append((self.say("more_terms", n=len(terms) - len(order)), "", "", "", "", _shown(left)))
        rows += [(name, "", "", "", "", value) for name, value in ends]
        return [f"    {line}" for line in table(rows, left=(0,))]

    def inputs(self) -> list[str]:
        e = self.explanation
        names = e.input_names or ("",) * self.sizes[0]
        rows = [(f"x{1 + k}", _shown(x), name) for k, (x, name) in enumerate(zip(self.a(0), names, strict=True))]
        left = [f"  {self.say('more_terms', n=len(rows) - 2 * _IN_FULL)}"] if len(rows) > 2 * _IN_FULL else []
        return [*(f"  {line}" for line in table(rows[: 2 * _IN_FULL], left=(0, 2))), *left]

    def forward(self) -> Iterator[str]:
        e = self.explanation
        for l, (layer, f) in enumerate(zip(e.layers, e.activations, strict=True), start=1):
            W, b, source = self.W[l], self.b[l], "x" if l == 1 else "a"
            for i, head in self.units(l):
                u = self.first[l] + i
                ends = [(f"z{u}", _shown(self.z(l)[i])), (f"a{u} = f(z{u})", _shown(self.a(l)[i]))]
                terms = []
                if W is not None and b is not None:
                    ends.insert(0, (f"b{u}", _shown(b[i])))
                    terms = [
                        (f"w{_pair(u, self.first[l - 1] + j)} {source}{self.first[l - 1] + j}", W[i, j], x)
                        for j, x in enumerate(self.a(l - 1))
                    ]
                yield from [*head, *self.sum(terms, ends)]
            yield from self.rest(l)
            yield f"  {f.name}: {stated(f)}" + ("" if W is not None else f"; {layer.kind}: {stated(layer)}")

    def cost(self) -> list[str]:
        e = self.explanation
        h, y, loss = self.a(self.last), e.y[self.sample], e.network.loss_function
        names = e.output_names or ("",) * len(h)
        rows = [("", "h", "y", "h − y", "")]
        rows += [
            (f"{self.first[-1] + i}", _shown(h[i]), _shown(y[i]), _shown(h[i] - y[i]), names[i]) for i in range(len(h))
        ]
        return [
            *(f"  {line}" for line in table(rows[: 2 * _IN_FULL + 1], left=(0, 4))),
            f"  C = {_shown(e.cost[self.sample])}",
            f"  {loss.name}: {stated(loss)}",
        ]

    def backward(self) -> Iterator[str]:
        for l in range(self.last, 0, -1):
            f, W = self.explanation.activations[l - 1], self.W[l + 1] if l < self.last else None
            df = None if slope(f) is None else np.broadcast_to(f.df(self.z(l), self.a(l)), (self.sizes[l],))
            for i, head in self.units(l):
                u, d = self.first[l] + i, self.delta(l)[i]
                ends = [(f"delta{u}", _shown(d))]
                terms: list[tuple[str, float, float]] = []
                if l == self.last and self.explanation.network.loss_function.is_canonical(f):
                    ends = [(f"delta{u} = h{u} − y{u}", _shown(d))]
                elif l == self.last and df is not None:
                    h, y = self.a(l)[i], self.explanation.y[self.sample][i]
                    ends = [
                        (f"∂C/∂h{u}", _shown(self.explanation.network.loss_function.dcost(h, y))),
                        (f"f'(z{u})", _shown(df[i])),
                        (f"delta{u} = f'(z{u}) · ∂C/∂h{u}", _shown(d)),
                    ]
                elif W is not None:
                    after = self.delta(l + 1)
                    terms = [
                        (f"w{_pair(self.first[l + 1] + k, u)} delta{self.first[l + 1] + k}", W[k, i], after[k])
                        for k in range(len(after))
                    ]
                    ends = [(f"∂C/∂a{u}", _shown(float(W[:, i] @ after)))]
                    if df is not None:
                        ends += [(f"f'(z{u})", _shown(df[i]))]
                    ends += [(f"delta{u} = f'(z{u}) · ∂C/∂a{u}", _shown(d))]
                yield from [*head, *self.sum(terms, ends)]
            yield from self.rest(l)

    def weights(self) -> list[tuple[str, int, float]]:
        """Name, index in theta and ∂C/∂w of the weights that are listed: those with the largest |∂J/∂w|."""
        e, found, place = self.explanation, [], 0
        theta = e.network.parameters
        for l, W in enumerate(self.W):
            if W is not None:
                # theta begins with every W, one after the other.
                for i, j in np.ndindex(W.shape):
                    name = f"w{_pair(self.first[l] + i, self.first[l - 1] + j)}"
                    found.append((name, place + i * W.shape[1] + j, float(self.delta(l)[i] * self.a(l - 1)[j])))
                place += W.size
        assert place <= theta.size, "weights are a part of theta"
        sizes = np.abs(e.gradients.flat)
        return sorted(found, key=lambda item: -sizes[item[1]])[: 2 * _IN_FULL]

    def gradient(self) -> list[str]:
        """∂C/∂w of these weights beside a central difference."""
        e = self.explanation
        network = e.network.copy()
        network.weight_decay = 0.0
        theta, X, y = network.parameters, e.X[[self.sample]], e.y[[self.sample]]
        rows, worst = [("", "∂C/∂w = delta · a", self.say("difference"))], 0.0
        for name, place, gradient in self.weights():
            w, step = float(theta[place]), 1e-5 * max(1.0, abs(float(theta[place])))
            costs = []
            for value in (w + step, w - step):
                theta[place] = value
                costs.append(network.loss(X, y))
            theta[place] = w
            other = (costs[0] - costs[1]) / (2 * step)
            worst = max(worst, abs(other - gradient))
            rows.append((name, _shown(gradient), _shown(other)))
        return [*(f"  {line}" for line in table(rows, left=(0,))), f"  {self.say('text_agree', e=f'{worst:.1g}')}"]

    def batch(self) -> list[str]:
        """J as the mean of C and the term of weight decay."""
        mean, J = float(self.explanation.cost.mean()), self.explanation.gradients.loss
        return [f"  {self.say('cost_of_batch')} = {_shown(mean)} + {_shown(J - mean)} = {_shown(J)}"]

    def update(self, learning_rate: float) -> list[str]:
        """θ − η ∇J of these weights, and J before and after the step."""
        e, flat = self.explanation, self.explanation.gradients.flat
        theta = e.network.parameters
        rows = [("", self.say("before"), "∂J/∂w", self.say("after"))]
        rows += [
            (name, _shown(theta[place]), _shown(flat[place]), _shown(theta[place] - learning_rate * flat[place]))
            for name, place, _ in self.weights()
        ]
        after = e.network.copy()
        after.parameters[...] -= learning_rate * flat
        step = f"{self.say('eta')} = {learning_rate:g}, {self.say('lambda')} = {e.network.weight_decay:g}"
        j = f"{self.say('j_before_after')}: {_shown(e.gradients.loss)} → {_shown(after.loss(e.X, e.y))}"
        return [f"  {step}", *(f"  {line}" for line in table(rows, left=(0,))), f"  {j}"]


def _shown(value: float) -> str:
    return f"{value:.4g}"


def _pair(unit: int, source: int) -> str:
    return f"{unit}{source}" if unit < 10 and source < 10 else f"{unit},{source}"
