// The network, the state of the page (what is shown, and what the user has changed), and the numbers.

const DATA = JSON.parse(document.getElementById("data").textContent);
const TEXTS = JSON.parse(document.getElementById("texts").textContent);

// ---- the network. Units are numbered from 1 through all layers; layer 0 is the input units.

const SIZES = DATA.sizes;
const FIRST = SIZES.map((_, l) => 1 + SIZES.slice(0, l).reduce((sum, n) => sum + n, 0));
const LAST = SIZES.length - 1;
const SLOPES = DATA.layers.map((layer) => layer.slope && compiled(layer.slope));
const SAMPLES = DATA.rows.length;
const IN_FULL = 8; // terms of a sum, rows of a list, and units of a layer that have steps of their own

const pass = new Pass(DATA.program);
const original = {
  theta: decoded(DATA.theta),
  X: rowsOf(decoded(DATA.X), SAMPLES),
  y: rowsOf(decoded(DATA.y), SAMPLES),
  decay: DATA.decay,
  eta: DATA.eta,
};
const engine = {
  layers: DATA.trace.map((layer) =>
    Object.fromEntries(Object.entries(layer).map(([name, text]) => [name, rowsOf(decoded(text), SAMPLES)])),
  ),
  cost: decoded(DATA.cost),
  dx: rowsOf(decoded(DATA.dX), SAMPLES),
  gradient: decoded(DATA.gradient),
};

const state = {
  language: DATA.language,
  sample: 0,
  step: 0,
  selected: null,
  playing: null,
  ask: false,
  answers: {},
  chosen: [],
  edited: copied(original),
  version: 0,
};

function copied({ theta, X, y, decay, eta }) {
  return { theta: theta.slice(), X: X.map((row) => row.slice()), y: y.map((row) => row.slice()), decay, eta };
}

function rowsOf(flat, count) {
  const width = flat.length / count;
  return Array.from({ length: count }, (_, k) => flat.slice(k * width, (k + 1) * width));
}

function isChanged() {
  const { theta, X, y, decay } = state.edited;
  const differs = (p, q) => p.some((value, i) => value !== q[i]);
  return (
    decay !== original.decay ||
    differs(theta, original.theta) ||
    X.some((row, k) => differs(row, original.X[k])) ||
    y.some((row, k) => differs(row, original.y[k]))
  );
}

// ---- numbers: nnbp's own as long as nothing is changed, else those of the page's pass

let kept = { version: -1 };

function numbers() {
  if (kept.version !== state.version) kept = { version: state.version, results: [], isChanged: isChanged() };
  return kept;
}

// For one sample, without weight decay: z, a, delta and da of each layer after the input, inputs, cost, dx, gradient.
function results(sample = state.sample) {
  const cache = numbers();
  if (!cache.results[sample]) {
    const { X, y, theta } = state.edited,
      found = pass.run(X[sample], y[sample], theta);
    found.inputs = pass.read(DATA.program.inputs);
    if (!cache.isChanged) {
      found.layers.forEach((layer, l) => {
        for (const name of ["z", "a", "delta"]) layer[name] = engine.layers[l][name][sample];
      });
      found.cost = engine.cost[sample];
      found.dx = engine.dx[sample];
    }
    cache.results[sample] = found;
  }
  return cache.results[sample];
}

// J, mean C, the term of weight decay, and the gradient of J.
function batch() {
  const cache = numbers();
  if (!cache.batch) {
    const { theta, decay } = state.edited,
      all = state.edited.X.map((_, k) => results(k));
    const mean = all.reduce((sum, found) => sum + found.cost, 0) / SAMPLES;
    const term = (decay / 2) * theta.slice(0, DATA.decayed).reduce((sum, w) => sum + w * w, 0);
    const gradient = cache.isChanged
      ? theta.map((w, k) => {
          const share = all.reduce((sum, found) => sum + found.gradient[k], 0) / SAMPLES;
          return k < DATA.decayed ? share + decay * w : share;
        })
      : engine.gradient;
    cache.batch = { mean, term, J: cache.isChanged ? mean + term : DATA.J, gradient };
  }
  return cache.batch;
}

function costAt(theta, sample = state.sample) {
  return pass.run(state.edited.X[sample], state.edited.y[sample], theta).cost;
}

function objective(theta) {
  const cost = state.edited.X.reduce((sum, _, k) => sum + costAt(theta, k), 0) / SAMPLES;
  return cost + (state.edited.decay / 2) * theta.slice(0, DATA.decayed).reduce((sum, w) => sum + w * w, 0);
}

// (C(w + e) − C(w − e)) / 2e for one parameter.
function centralDifference(k) {
  const theta = state.edited.theta.slice(),
    w = theta[k],
    e = 1e-5 * Math.max(1, Math.abs(w));
  const [above, below] = [w + e, w - e].map((value) => {
    theta[k] = value;
    return costAt(theta);
  });
  return (above - below) / (2 * e);
}

// The largest difference between this page's pass and nnbp's numbers, relative to the largest number of each array.
function disagreement() {
  const worst = new Map(),
    largest = new Map();
  const note = (name, p, q) =>
    p.forEach((value, i) => {
      worst.set(name, Math.max(worst.get(name) ?? 0, Math.abs(value - q[i])));
      largest.set(name, Math.max(largest.get(name) ?? 0, Math.abs(q[i])));
    });
  for (let k = 0; k < SAMPLES; k++) {
    const own = pass.run(original.X[k], original.y[k], original.theta);
    own.layers.forEach((layer, l) => {
      for (const name of ["z", "a", "delta"]) note(name + l, layer[name], engine.layers[l][name][k]);
    });
    note("cost", [own.cost], [engine.cost[k]]);
    note("dx", own.dx, engine.dx[k]);
  }
  return Math.max(...Array.from(worst, ([name, error]) => (error ? error / largest.get(name) : 0)));
}

function outputOf(l, i, sample = state.sample) {
  const found = results(sample);
  return l === 0 ? found.inputs[i] : found.layers[l - 1].a[i];
}

// "dead", "saturated" or "" for a hidden unit, from f'(z) of all samples.
function health(l, i) {
  const slope = l > 0 && l < LAST && SLOPES[l - 1];
  if (!slope) return "";
  const sizes = state.edited.X.map((_, k) => {
    const layer = results(k).layers[l - 1];
    return Math.abs(slope([layer.z[i], layer.a[i]])[0]);
  });
  const largest = Math.max(...sizes);
  return largest === 0 ? "dead" : largest < DATA.layers[l - 1].least_slope ? "saturated" : "";
}

// ---- parameters: {l, kind, i, j} with kind W, b, gamma or beta; l is the layer, i the unit, j its input

function placeOf({ l, kind, i, j }) {
  const [first, columns] = DATA.layers[l - 1].parameters[kind];
  return first + (kind === "W" ? i * columns + j : i);
}

// Each parameter at its place in theta.
const PARAMETERS = [];
DATA.layers.forEach((layer, k) => {
  for (const kind of Object.keys(layer.parameters)) {
    for (let i = 0; i < SIZES[k + 1]; i++) {
      for (let j = 0; j < (kind === "W" ? SIZES[k] : 1); j++) {
        const parameter = kind === "W" ? { l: k + 1, kind, i, j } : { l: k + 1, kind, i };
        PARAMETERS[placeOf(parameter)] = parameter;
      }
    }
  }
});

function parameterText({ l, kind, i, j }) {
  const unit = FIRST[l] + i;
  if (kind !== "W") return `${kind}${unit}`;
  const source = FIRST[l - 1] + j;
  return unit < 10 && source < 10 ? `w${unit}${source}` : `w${unit},${source}`;
}

function parameterMath({ l, kind, i, j }) {
  const unit = FIRST[l] + i,
    source = FIRST[l - 1] + j;
  if (kind !== "W") return sub(kind, unit);
  return sub("w", unit < 10 && source < 10 ? `${unit}${source}` : `${unit},${source}`);
}

// The factor that a parameter multiplies, so that ∂C/∂w is delta times it; null if it is not one number of the page.
function factorOf({ l, kind, j }, sample = state.sample) {
  return kind === "W" ? outputOf(l - 1, j, sample) : kind === "gamma" ? null : 1;
}

function gradientOf(parameter, sample = state.sample) {
  const factor = factorOf(parameter, sample),
    found = results(sample);
  return factor === null
    ? found.gradient[placeOf(parameter)]
    : found.layers[parameter.l - 1].delta[parameter.i] * factor;
}

function bySize(parameters, sizeOf) {
  return parameters
    .map((p) => [p, Math.abs(sizeOf(p))])
    .sort((p, q) => q[1] - p[1])
    .map(([p]) => p);
}
