"use strict";
// The page: what is shown (`state`), the numbers (`results`, `batch`), the diagram and the explanations beside it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const TEXTS = JSON.parse(document.getElementById("texts").textContent);

// ---- the network. Units are numbered from 1 through all layers; layer 0 are the input units.

const SIZES = DATA.sizes;
const FIRST = SIZES.map((_, l) => 1 + SIZES.slice(0, l).reduce((sum, n) => sum + n, 0));
const LAST = SIZES.length - 1;
const SLOPES = DATA.layers.map((layer) => layer.slope && compiled(layer.slope));
const SAMPLES = DATA.rows.length;
const IN_FULL = 8; // terms of a sum, rows of a list, and units of a layer that have steps of their own

const pass = new Pass(DATA.program);
const original = {
  theta: decoded(DATA.theta), X: rowsOf(decoded(DATA.X), SAMPLES), y: rowsOf(decoded(DATA.y), SAMPLES), decay: DATA.decay, eta: DATA.eta,
};
const engine = {
  layers: DATA.trace.map((layer) => Object.fromEntries(Object.entries(layer).map(([name, text]) => [name, rowsOf(decoded(text), SAMPLES)]))),
  cost: decoded(DATA.cost), dx: rowsOf(decoded(DATA.dX), SAMPLES), gradient: decoded(DATA.gradient),
};

const state = {
  language: DATA.language, sample: 0, step: 0, selected: null, playing: null, ask: false, answers: {}, chosen: [],
  edited: copied(original), version: 0,
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
  return decay !== original.decay || differs(theta, original.theta)
    || X.some((row, k) => differs(row, original.X[k])) || y.some((row, k) => differs(row, original.y[k]));
}

// ---- numbers: nnbp's own as long as nothing is changed, else those of the page's pass

let kept = { version: -1 };

function numbers() {
  if (kept.version !== state.version) kept = { version: state.version, results: [], isChanged: isChanged() };
  return kept;
}

// z, a, delta and da of each layer but the input, the inputs, cost, dx and gradient of one sample, without weight decay.
function results(sample = state.sample) {
  const cache = numbers();
  if (!cache.results[sample]) {
    const { X, y, theta } = state.edited, found = pass.run(X[sample], y[sample], theta);
    found.inputs = pass.read(DATA.program.inputs);
    if (!cache.isChanged) {
      found.layers.forEach((layer, l) => { for (const name of ["z", "a", "delta"]) layer[name] = engine.layers[l][name][sample]; });
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
    const { theta, decay } = state.edited, all = state.edited.X.map((_, k) => results(k));
    const mean = all.reduce((sum, found) => sum + found.cost, 0) / SAMPLES;
    const term = (decay / 2) * theta.slice(0, DATA.decayed).reduce((sum, w) => sum + w * w, 0);
    const gradient = cache.isChanged ? theta.map((w, k) => {
      const share = all.reduce((sum, found) => sum + found.gradient[k], 0) / SAMPLES;
      return k < DATA.decayed ? share + decay * w : share;
    }) : engine.gradient;
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
  const theta = state.edited.theta.slice(), w = theta[k], e = 1e-5 * Math.max(1, Math.abs(w));
  const [above, below] = [w + e, w - e].map((value) => { theta[k] = value; return costAt(theta); });
  return (above - below) / (2 * e);
}

// The largest difference between this page's pass and nnbp's numbers, relative to the largest number of each array.
function disagreement() {
  const worst = new Map(), largest = new Map();
  const note = (name, p, q) => p.forEach((value, i) => {
    worst.set(name, Math.max(worst.get(name) ?? 0, Math.abs(value - q[i])));
    largest.set(name, Math.max(largest.get(name) ?? 0, Math.abs(q[i])));
  });
  for (let k = 0; k < SAMPLES; k++) {
    const own = pass.run(original.X[k], original.y[k], original.theta);
    own.layers.forEach((layer, l) => { for (const name of ["z", "a", "delta"]) note(name + l, layer[name], engine.layers[l][name][k]); });
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

const PARAMETERS = DATA.layers.flatMap((layer, k) => Object.keys(layer.parameters).flatMap((kind) =>
  Array.from({ length: SIZES[k + 1] }, (_, i) => i).flatMap((i) => kind === "W"
    ? Array.from({ length: SIZES[k] }, (_, j) => ({ l: k + 1, kind, i, j })) : [{ l: k + 1, kind, i }])));

function parameterText({ l, kind, i, j }) {
  const unit = FIRST[l] + i;
  if (kind !== "W") return `${kind}${unit}`;
  const source = FIRST[l - 1] + j;
  return unit < 10 && source < 10 ? `w${unit}${source}` : `w${unit},${source}`;
}

function parameterMath({ l, kind, i, j }) {
  const unit = FIRST[l] + i, source = FIRST[l - 1] + j;
  if (kind !== "W") return sub(kind, unit);
  return sub("w", unit < 10 && source < 10 ? `${unit}${source}` : `${unit},${source}`);
}

// The factor that a parameter multiplies, so that ∂C/∂w is delta times it; null if it is not one number of the page.
function factorOf({ l, kind, j }, sample = state.sample) {
  return kind === "W" ? outputOf(l - 1, j, sample) : kind === "gamma" ? null : 1;
}

function gradientOf(parameter, sample = state.sample) {
  const factor = factorOf(parameter, sample), found = results(sample);
  return factor === null ? found.gradient[placeOf(parameter)] : found.layers[parameter.l - 1].delta[parameter.i] * factor;
}

function bySize(parameters, sizeOf) {
  return parameters.map((p) => [p, Math.abs(sizeOf(p))]).sort((p, q) => q[1] - p[1]).map(([p]) => p);
}

// ---- steps

const STEPS = [{ phase: "input" }];
const perUnit = (l) => SIZES[l] <= IN_FULL;
for (let l = 1; l <= LAST; l++) addSteps("forward", l);
STEPS.push({ phase: "cost" });
for (let l = LAST; l >= 1; l--) addSteps("backward", l);
STEPS.push({ phase: "gradient" }, { phase: "batch" }, { phase: "update" });
const PHASES = ["input", "forward", "cost", "backward", "gradient", "batch", "update"];

function addSteps(phase, l) {
  if (perUnit(l)) for (let i = 0; i < SIZES[l]; i++) STEPS.push({ phase, l, i });
  else STEPS.push({ phase, l });
}

const stepOf = (phase, l, i) => STEPS.findIndex((step) => step.phase === phase && step.l === l && (!perUnit(l) || step.i === i));

// The unit of a layer that stands for it: the one that was chosen, else the one with the largest output.
function chosen(l) {
  if (state.chosen[l] === undefined) {
    const sizes = Array.from({ length: SIZES[l] }, (_, i) => Math.abs(outputOf(l, i)));
    state.chosen[l] = sizes.indexOf(Math.max(...sizes));
  }
  return state.chosen[l];
}

const current = () => STEPS[state.step];
const unitOfStep = (step) => (step.l === undefined ? null : { l: step.l, i: perUnit(step.l) ? step.i : chosen(step.l) });

// Whether a number of the diagram has been computed by now; a question hides that of its own step.
const reached = (phase, l, i) => stepOf(phase, l, i) < state.step + (isAsking() ? 0 : 1);

// ---- language, numbers and formulas

function t(key, values = {}) {
  return TEXTS[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

// Four digits that count.
function plain(value, digits = 4) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  if (!text.includes("e") && text.includes(".")) text = text.replace(/\.?0+$/, "");
  return text.replace(/e\+?(-?\d+)/, (_, power) => `·10${[...power].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`).replace(/^-/, "−");
}

// A number that fits into a circle.
function short(value) {
  if (!(Math.abs(value) < 10)) return plain(value, 3);
  const text = plain(Number(value.toFixed(3)));
  return text === "0" && value !== 0 ? "≈ 0" : text;
}

const num = (value, digits) => `<span class="num ${value < 0 ? "minus" : "plus"}" title="${value}">${plain(value, digits)}</span>`;

const mi = (name) => `<mi>${name}</mi>`;
const mo = (sign) => `<mo>${sign}</mo>`;
const mn = (value) => (typeof value === "number" ? (value < 0 ? `<mrow><mo>(</mo><mn>${plain(value)}</mn><mo>)</mo></mrow>` : `<mn>${plain(value)}</mn>`) : `<mn>${value}</mn>`);
const sub = (name, index) => `<msub><mi>${name}</mi><mn>${index}</mn></msub>`;
const frac = (over, under) => `<mfrac><mrow>${over}</mrow><mrow>${under}</mrow></mfrac>`;
const slopeOf = (name, under) => frac(`${mo("∂")}${mi(name)}`, `${mo("∂")}${under}`);
const sumOver = (index, what) => `<munder><mo>∑</mo><mi>${index}</mi></munder>${what}`;

// A formula that a narrow screen can break before each "=".
function math(...parts) {
  const pieces = [[]];
  for (const part of parts) {
    if (part === mo("=")) pieces.push([]);
    pieces.at(-1).push(part);
  }
  return `<p class="math">${pieces.map((piece) => `<math displaystyle="true"><mrow>${piece.join("")}</mrow></math>`).join(" ")}</p>`;
}
// In tables, where axe does not see MathML.
const symbol = (name, index) => `<i>${name}</i><sub>${index}</sub>`;
const delta = (unit) => sub("δ", unit);

function unitName(l, i) {
  const names = l === 0 ? DATA.input_names : l === LAST ? DATA.output_names : [];
  return names.length ? names[i] : "";
}

const placeName = (l) => (l === 0 ? t("input_unit") : l === LAST ? t("output_unit") : t("hidden_unit", { l }));
const layerName = (l) => (l === 0 ? t("layer_inputs") : l === LAST ? t("layer_outputs") : t("layer_hidden", { l }));

function table(head, rows, more = "") {
  // The name of a row that has fewer cells than the head takes their place.
  const cells = (row) => row.map((cell, k) => (k ? `<td>${cell}</td>` : `<th scope="row" colspan="${head.length - row.length + 1}">${cell}</th>`)).join("");
  const body = rows.map((row) => `<tr${row.total ? ' class="total"' : ""}>${cells(row)}</tr>`).join("");
  return `<div class="scroll" tabindex="0" role="group" aria-label="${escape(head[0])}"><table><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr></thead><tbody>${body}</tbody></table></div>${more}`;
}

const total = (...row) => Object.assign(row, { total: true });

function parameterButton(parameter) {
  return `<button class="link" data-parameter="${PARAMETERS.indexOf(lookup(parameter))}">${parameterHtml(parameter)}</button>`;
}

const parameterHtml = (parameter) => parameterText(parameter).replace(/^([a-z]+)(.*)$/, "$1<sub>$2</sub>");

const KEYS = new Map(PARAMETERS.map((p) => [parameterText(p) + p.kind, p]));
const lookup = (parameter) => KEYS.get(parameterText(parameter) + parameter.kind);
const unitButton = (l, i, text) => `<button class="link" data-unit="${l},${i}">${text ?? FIRST[l] + i}</button>`;

// ---- explanations

// A sum of products as a table. terms: [name, factor, other factor]; the largest first if there are many.
function sumTable(head, terms, rest) {
  const row = ([name, p, q]) => [name, num(p), num(q), num(p * q)];
  if (terms.length <= IN_FULL) return table(head, [...terms.map(row), ...rest]);
  const sorted = [...terms].sort((p, q) => Math.abs(q[1] * q[2]) - Math.abs(p[1] * p[2]));
  const left = sorted.slice(IN_FULL), sum = left.reduce((so, [, p, q]) => so + p * q, 0);
  const whole = `<details><summary>${t("all_terms", { n: terms.length })}</summary>${table(head, terms.map(row))}</details>`;
  return table(head, [...sorted.slice(0, IN_FULL).map(row), [t("more_terms", { n: left.length }), num(sum)], ...rest], whole);
}

function unitCard(l, i, only) {
  const unit = FIRST[l] + i, name = unitName(l, i), state_ = health(l, i);
  const options = Array.from({ length: SIZES[l] }, (_, k) => `<option value="${k}"${k === i ? " selected" : ""}>${FIRST[l] + k} ${escape(unitName(l, k))}</option>`).join("");
  const choice = SIZES[l] > IN_FULL ? `<label>${t("choose_unit")} <select data-choose="${l}" id="choose">${options}</select></label>` : "";
  const mark = state_ ? `<p class="mark"><b>${t(state_)}</b> ${t(`${state_}_why`)}</p>` : "";
  const title = only ? "" : `<h2>${t("unit_title", { u: unit, place: placeName(l) })}${name ? `: ${escape(name)}` : ""}</h2>`;
  const parts = [];
  const head = (key) => (only ? "" : `<h3>${t(key)}</h3>`);
  if (l === 0) parts.push(inputEditor([columnOf(i)]), head("backward_sum"), backwardSum(l, i));
  else {
    if (only !== "backward") parts.push(head("forward_sum"), forwardSum(l, i));
    if (only !== "forward") parts.push(head("backward_sum"), backwardSum(l, i));
    if (l === LAST && !only) parts.push(targetEditor([i]));
  }
  return title + choice + mark + parts.join("");
}

function forwardSum(l, i) {
  const unit = FIRST[l] + i, layer = DATA.layers[l - 1], { z, a } = results().layers[l - 1];
  const from = l === 1 ? "x" : "a";
  const end = [total(symbol("z", unit), num(z[i]))];
  let body;
  if (layer.parameters.W) {
    const terms = Array.from({ length: SIZES[l - 1] }, (_, j) => {
      const parameter = { l, kind: "W", i, j };
      return [`${parameterButton(parameter)} ${symbol(from, FIRST[l - 1] + j)}`, state.edited.theta[placeOf(parameter)], outputOf(l - 1, j)];
    });
    const bias = { l, kind: "b", i };
    const formula = math(sub("z", unit), mo("="), sumOver("j", `<msub><mi>w</mi><mrow><mn>${unit}</mn><mo>,</mo><mi>j</mi></mrow></msub><msub><mi>${from}</mi><mi>j</mi></msub>`), mo("+"), sub("b", unit));
    const rest = [[`${parameterButton(bias)} (${t("bias")})`, num(state.edited.theta[placeOf(bias)])], ...end];
    body = `<p>${t("forward_why")}${layer.dropout ? ` ${t("dropout_off")}` : ""}</p>${formula}`
      + sumTable([t("term"), t("weight"), t("input"), t("product")], terms, rest) + maps(l, i);
  } else {
    const rows = Object.keys(layer.parameters).map((kind) => [parameterButton({ l, kind, i }), num(state.edited.theta[placeOf({ l, kind, i })])]);
    body = `<p>${t("normalized")} <span class="formula">${escape(layer.layer_formula)}</span></p>`
      + table([t("term"), t("value")], [...rows, [t("input"), num(outputOf(l - 1, i))], total(symbol("z", unit), num(z[i]))]);
  }
  const output = math(sub("a", unit), mo("="), mi("f"), mo("("), sub("z", unit), mo(")"), mo("="), mi("f"), mo("("), `<mn>${plain(z[i])}</mn>`, mo(")"), mo("="), `<mn>${plain(a[i])}</mn>`);
  return `${body}${output}<p class="formula">${escape(layer.activation)}: ${escape(layer.formula)}</p>`;
}

function backwardSum(l, i) {
  const unit = FIRST[l] + i, found = results(), layer = found.layers[l - 1];
  const slope = l > 0 && SLOPES[l - 1] ? SLOPES[l - 1]([layer.z[i], layer.a[i]])[0] : null;
  const parts = [];
  const result = l > 0 ? `<mn>${plain(layer.delta[i])}</mn>` : "";
  if (l === LAST) {
    const h = layer.a[i], y = state.edited.y[state.sample][i];
    parts.push(`<p>${t("output_case")}</p>`);
    if (DATA.loss.canonical) parts.push(math(delta(unit), mo("="), sub("h", unit), mo("−"), sub("y", unit), mo("="), mn(h), mo("−"), mn(y), mo("="), result));
    else if (slope === null) parts.push(math(delta(unit), mo("="), slopeOf("C", sub("z", unit)), mo("="), result));
    else parts.push(math(delta(unit), mo("="), `${mi("f′")}${mo("(")}${sub("z", unit)}${mo(")")}`, mo("·"), slopeOf("C", sub("h", unit)), mo("="), mn(slope), mo("·"), mn(layer.da[i]), mo("="), result));
    parts.push(`<p class="formula">${escape(DATA.loss.name)}: ${escape(DATA.loss.formula)}</p>`);
    return parts.join("");
  }
  const next = DATA.layers[l], da = l === 0 ? null : layer.da[i], target = l === 0 ? sub("x", unit) : sub("a", unit);
  let sum = da;
  if (next.parameters.W) {
    const terms = Array.from({ length: SIZES[l + 1] }, (_, k) => {
      const parameter = { l: l + 1, kind: "W", i: k, j: i };
      return [`${parameterButton(parameter)} ${unitButton(l + 1, k, symbol("δ", FIRST[l + 1] + k))}`, state.edited.theta[placeOf(parameter)], found.layers[l].delta[k]];
    });
    sum = sum ?? terms.reduce((so, [, w, d]) => so + w * d, 0);
    parts.push(`<p>${t(l === 0 ? "input_case" : "hidden_case")}</p>`);
    const paths = sumOver("k", `<msub><mi>w</mi><mrow><mi>k</mi><mo>,</mo><mn>${unit}</mn></mrow></msub><msub><mi>δ</mi><mi>k</mi></msub>`);
    parts.push(l === 0 ? math(slopeOf("C", target), mo("="), paths) : math(delta(unit), mo("="), `${mi("f′")}${mo("(")}${sub("z", unit)}${mo(")")}`, paths));
    parts.push(sumTable([t("term"), t("weight"), "δ", t("product")], terms, [total(`∂<i>C</i>/∂${symbol(l === 0 ? "x" : "a", unit)}`, num(sum))]));
  } else parts.push(`<p>${t("through_norm")}</p>`, da === null ? "" : math(slopeOf("C", target), mo("="), mn(da)));
  if (l > 0) {
    parts.push(math(delta(unit), mo("="), `${mi("f′")}${mo("(")}${mn(plain(layer.z[i]))}${mo(")")}`, mo("·"), slopeOf("C", target), mo("="), mn(slope), mo("·"), mn(sum), mo("="), result));
    parts.push(`<p class="formula">${escape(DATA.layers[l - 1].activation)}: ${escape(DATA.layers[l - 1].formula)}</p>`);
  }
  return parts.join("");
}

// For a unit with many inputs: its weights and the outputs that they multiply, as pictures.
function maps(l, i) {
  if (SIZES[l - 1] <= 30) return "";
  const weights = Array.from({ length: SIZES[l - 1] }, (_, j) => state.edited.theta[placeOf({ l, kind: "W", i, j })]);
  const inputs = Array.from({ length: SIZES[l - 1] }, (_, j) => outputOf(l - 1, j));
  const picture = (values, label) => {
    const { columns, rows } = gridOf(values.length), side = 132 / columns;
    return `<figure><svg role="img" aria-label="${label}" width="132" height="${rows * side}">${cells(values, 0, 0, side, columns).join("")}</svg><figcaption>${label}</figcaption></figure>`;
  };
  return `<div class="maps">${picture(weights, t("weights_map"))}${picture(inputs, t("inputs_map"))}</div>`;
}

function parameterCard(parameter) {
  const { l, kind, i, j } = parameter, unit = FIRST[l] + i, name = parameterText(parameter);
  const title = kind === "W" ? t("weight_title", { w: parameterHtml(parameter), j: FIRST[l - 1] + j, i: unit }) : t(kind === "b" ? "bias_title" : "scale_title", { w: parameterHtml(parameter), i: unit });
  const own = gradientOf(parameter), other = centralDifference(placeOf(parameter)), factor = factorOf(parameter);
  const source = kind === "W" ? sub(l === 1 ? "x" : "a", FIRST[l - 1] + j) : mn("1");
  const left = slopeOf("C", parameterMath(parameter));
  const product = factor === null ? math(left, mo("="), `<mn>${plain(own)}</mn>`)
    : math(left, mo("="), delta(unit), mo("·"), source, mo("="), mn(results().layers[l - 1].delta[i]), mo("·"), mn(factor), mo("="), `<mn>${plain(own, 6)}</mn>`);
  return `<h2>${title}</h2>
    <p>${edit("parameter", PARAMETERS.indexOf(lookup(parameter)), parameterHtml(parameter), state.edited.theta[placeOf(parameter)])}</p>
    <p>${kind === "W" ? t("product_why") : kind === "b" ? t("bias_why") : ""}</p>${product}
    <p>${t("difference")}: ${num(other, 6)}, ${t("agrees", { e: plain(Math.abs(own - other), 2) })}. <span class="dim">${t("difference_why")}</span></p>
    <h3>${t("batch_of", { w: parameterHtml(parameter) })}</h3>${batchTable(parameter)}`;
}

function batchTable(parameter) {
  const { l, kind, i, j } = parameter, place = placeOf(parameter), isWeight = place < DATA.decayed;
  const source = kind === "W" ? symbol(l === 1 ? "x" : "a", FIRST[l - 1] + j) : "";
  const own = state.edited.X.map((_, k) => [results(k).layers[l - 1].delta[i], factorOf(parameter, k), gradientOf(parameter, k)]);
  const rows = own.map(([d, factor, g], k) => [`<button class="link" data-sample="${k}">${k + 1}</button>`, num(d), factor === null || kind !== "W" ? "" : num(factor), num(g)]);
  const mean = own.reduce((sum, [, , g]) => sum + g, 0) / SAMPLES;
  rows.push(total(t("mean", { m: SAMPLES }), num(mean)));
  if (isWeight) rows.push([`${t("decay")} λw = ${plain(state.edited.decay)} · ${plain(state.edited.theta[place])}`, num(state.edited.decay * state.edited.theta[place])]);
  rows.push(total(`∂<i>J</i>/∂${parameterHtml(parameter)}`, num(batch().gradient[place])));
  return table([t("sample"), symbol("δ", FIRST[l] + i), source, t("gradient")], rows);
}

function parameterList(parameters, head, row) {
  const few = parameters.slice(0, 2 * IN_FULL);
  const caption = few.length < parameters.length ? `<p class="dim">${t("largest", { n: few.length, total: parameters.length })}</p>` : "";
  return caption + table(head, few.map((p) => [parameterButton(p), ...row(p)]));
}

const EXPLANATIONS = {
  input: () => `<h2>${t("title_input")}</h2>${inputEditor(DATA.columns.map((_, k) => k))}${targetEditor(Array.from({ length: SIZES[LAST] }, (_, i) => i))}`,
  forward: ({ l, i }) => `<h2>${perUnit(l) ? t("title_forward", { u: FIRST[l] + i }) : t("title_forward_layer", { l, u: FIRST[l] + i })}</h2>${unitCard(l, i, "forward")}`,
  backward: ({ l, i }) => `<h2>${perUnit(l) ? t("title_backward", { u: FIRST[l] + i }) : t("title_backward_layer", { l, u: FIRST[l] + i })}</h2>${unitCard(l, i, "backward")}`,
  cost: () => {
    const found = results(), h = found.layers[LAST - 1].a, y = state.edited.y[state.sample];
    const rows = Array.from(h, (value, i) => [`${unitButton(LAST, i)} ${escape(unitName(LAST, i))}`, num(value), num(y[i]), num(value - y[i])]);
    return `<h2>${t("title_cost")}</h2><p>${t("cost_why")} <span class="formula">${escape(DATA.loss.name)}: ${escape(DATA.loss.formula)}</span></p>
      ${table([t("output"), "h", "y", t("error")], rows)}${math(mi("C"), mo("="), `<mn>${plain(found.cost)}</mn>`)}${predicted(h, y)}`;
  },
  gradient: () => {
    const sorted = PARAMETERS.length <= 4 * IN_FULL ? PARAMETERS : bySize(PARAMETERS, gradientOf);
    const rows = (p) => [num(results().layers[p.l - 1].delta[p.i]), factorOf(p) === null ? "" : num(factorOf(p)), num(gradientOf(p))];
    const list = PARAMETERS.length <= 4 * IN_FULL
      ? table([t("weight"), "δ", "a", t("gradient")], sorted.map((p) => [parameterButton(p), ...rows(p)]))
      : parameterList(sorted, [t("weight"), "δ", "a", t("gradient")], rows);
    return `<h2>${t("title_gradient")}</h2><p>${t("gradient_why")}</p>${math(slopeOf("C", "<msub><mi>w</mi><mrow><mi>i</mi><mo>,</mo><mi>j</mi></mrow></msub>"), mo("="), "<msub><mi>δ</mi><mi>i</mi></msub>", "<msub><mi>a</mi><mi>j</mi></msub>")}${list}`;
  },
  batch: () => {
    const { mean, term, J } = batch(), parameter = shownParameter();
    const costs = state.edited.X.map((_, k) => [`<button class="link" data-sample="${k}">${k + 1}</button>`, num(results(k).cost)]);
    const few = PARAMETERS.length <= 300 ? PARAMETERS : bySize(PARAMETERS, (p) => batch().gradient[placeOf(p)]).slice(0, 300);
    const options = [...new Set([parameter, ...few])].map((p) => `<option value="${PARAMETERS.indexOf(p)}"${p === parameter ? " selected" : ""}>${parameterText(p)}</option>`).join("");
    const objectiveOf = math(mi("J"), mo("="), frac(mn("1"), mi("m")), sumOver("n", "<msup><mi>C</mi><mi>n</mi></msup>"), mo("+"), frac(mi("λ"), mn("2")), mo("∑"), "<msup><mi>w</mi><mn>2</mn></msup>", mo("="), mn(mean), mo("+"), mn(term), mo("="), `<mn>${plain(J)}</mn>`);
    return `<h2>${t("title_batch")}</h2><p>${t("batch_why")}</p>
      <p><label>${t("choose_weight")} <select id="shown" data-shown>${options}</select></label> ${edit("decay", 0, t("lambda"), state.edited.decay)}</p>
      <h3>${t("batch_of", { w: parameterHtml(parameter) })}</h3>${batchTable(parameter)}<h3>${t("cost_of_batch")}</h3>${objectiveOf}
      <details><summary>${t("sample")}, C</summary>${table([t("sample"), "C"], costs)}</details>`;
  },
  update: () => {
    const { gradient, J } = batch(), { theta, eta } = state.edited;
    const after = theta.map((w, k) => w - eta * gradient[k]), sorted = bySize(PARAMETERS, (p) => gradient[placeOf(p)]);
    const list = parameterList(sorted, [t("weight"), t("before"), t("gradient"), t("change"), t("after")], (p) => {
      const k = placeOf(p);
      return [num(theta[k]), num(gradient[k]), num(-eta * gradient[k]), num(after[k])];
    });
    return `<h2>${t("title_update")}</h2><p>${t("update_why")}</p>${math(mi("w"), mo("←"), mi("w"), mo("−"), mi("η"), slopeOf("J", "<mi>w</mi>"))}
      <p>${edit("eta", 0, t("eta"), eta)} ${edit("decay", 0, t("lambda"), state.edited.decay)}</p>
      <p>${t("j_before_after")}: ${num(J)} → ${num(objective(after))} <button data-do="descend">${t("take_step")}</button></p>${list}`;
  },
};

function shownParameter() {
  return state.shown ?? bySize(PARAMETERS.filter((p) => p.kind === "W"), (p) => batch().gradient[placeOf(p)])[0] ?? PARAMETERS[0];
}

function predicted(h, y) {
  const { name, labels, mean, scale } = DATA.target;
  if (labels.length) {
    const k = labels.length === 2 && h.length === 1 ? +(h[0] >= 0.5) : h.indexOf(Math.max(...h));
    return `<p>${t("predicted", { label: escape(labels[k]) })}</p>`;
  }
  return name ? `<p>${t("own_unit", { name: escape(name), h: plain(h[0] * scale + mean), y: plain(y[0] * scale + mean) })}</p>` : "";
}

// ---- what can be changed

function edit(what, key, label, value, zero = false) {
  const id = `edit-${what}-${key}`;
  return `<span class="edit"><label for="${id}">${label}</label> <input id="${id}" type="number" step="any" value="${Number(value.toPrecision(6))}" data-edit="${what},${key}">${zero ? ` <button data-zero="${what},${key}">${t("set_zero")}</button>` : ""}</span>`;
}

const columnOf = (i) => DATA.columns.findIndex((column) => column.units.includes(i));

function inputEditor(columns) {
  return editors(columns.map((k) => {
    const { name, categories, mean, scale, units } = DATA.columns[k], x = state.edited.X[state.sample][k];
    const label = `x<sub>${FIRST[0] + units[0]}</sub>${name ? ` ${escape(name)}` : ""}`;
    const standard = scale === 1 && mean === 0 ? "" : ` <span class="dim">${t("taken_as", { x: plain(x) })}</span>`;
    if (!categories.length) return edit("input", k, label, x * scale + mean, true) + standard;
    const options = ["", ...categories].map((category, at) => `<option value="${at - 1}"${at - 1 === x ? " selected" : ""}>${escape(category) || "–"}</option>`);
    return `<span class="edit"><label for="edit-input-${k}">${escape(name) || label}</label> <select id="edit-input-${k}" data-edit="input,${k}">${options.join("")}</select></span>`;
  }));
}

function targetEditor(outputs) {
  const y = state.edited.y[state.sample];
  return editors(outputs.map((i) => edit("target", i, `y<sub>${FIRST[LAST] + i}</sub>${unitName(LAST, i) ? ` ${escape(unitName(LAST, i))}` : ""}`, y[i])));
}

function editors(list) {
  const few = `<p class="editors">${list.map((editor) => `<span>${editor}</span>`).join("")}</p>`;
  return list.length <= 2 * IN_FULL ? few : `<details><summary>${t("all_terms", { n: list.length })}</summary>${few}</details>`;
}

function change(what, key, value) {
  if (!Number.isFinite(value)) return;
  const { edited } = state;
  if (what === "parameter") edited.theta[placeOf(PARAMETERS[key])] = value;
  else if (what === "input") {
    const { categories, mean, scale } = DATA.columns[key];
    edited.X[state.sample][key] = categories.length ? value : (value - mean) / scale;
  } else if (what === "target") edited.y[state.sample][key] = value;
  else edited[what] = what === "decay" ? Math.max(0, value) : value;
  state.version++;
}

// ---- questions

function question(step) {
  const unit = unitOfStep(step), sign = (value) => (value > 0 ? "positive" : value < 0 ? "negative" : "zero");
  const signs = ["positive", "negative", "zero"].map((key) => [key, t(key)]);
  if (step.phase === "forward") return { text: t("q_forward_z", { u: FIRST[unit.l] + unit.i }), choices: signs.slice(0, 2), answer: sign(results().layers[unit.l - 1].z[unit.i]) };
  if (step.phase === "backward") return { text: t("q_backward", { u: FIRST[unit.l] + unit.i }), choices: signs, answer: sign(results().layers[unit.l - 1].delta[unit.i]) };
  if (step.phase === "cost") {
    const d = results().layers[LAST - 1].delta, i = d.reduce((best, value, k) => (Math.abs(value) > Math.abs(d[best]) ? k : best), 0);
    return { text: t("q_cost", { u: FIRST[LAST] + i }), choices: ["rises", "falls", "stays"].map((key) => [key, t(key)]), answer: d[i] > 0 ? "rises" : d[i] < 0 ? "falls" : "stays" };
  }
  if (step.phase === "gradient") {
    const sorted = bySize(PARAMETERS, gradientOf), three = [sorted[0], sorted[sorted.length >> 1], sorted[sorted.length - 1]];
    return { text: t("q_gradient"), choices: three.map((p) => [parameterText(p), parameterText(p)]).sort(), answer: parameterText(sorted[0]) };
  }
  if (step.phase === "batch" || step.phase === "update") {
    const p = shownParameter(), k = placeOf(p), g = batch().gradient[k], share = state.edited.decay * state.edited.theta[k];
    if (step.phase === "update") return { text: t("q_update", { w: parameterText(p) }), choices: ["grows", "shrinks"].map((key) => [key, t(key)]), answer: g < 0 ? "grows" : "shrinks" };
    return { text: t("q_batch", { w: parameterText(p) }), choices: ["larger", "smaller", "same"].map((key) => [key, t(key)]), answer: share > 0 ? "larger" : share < 0 ? "smaller" : "same" };
  }
  return null;
}

const isAsking = () => state.ask && !state.selected && state.answers[state.step] === undefined && question(current()) !== null;

function asked() {
  const { text, choices } = question(current());
  return `<h2>${t("question")}</h2><p class="ask">${text}</p><p>${choices.map(([key, label]) => `<button data-answer="${key}">${label}</button>`).join(" ")} <button class="quiet" data-answer="">${t("reveal")}</button></p>`;
}

function verdict() {
  const given = state.ask && !state.selected ? state.answers[state.step] : undefined;
  if (!given) return "";
  const { choices, answer } = question(current()), label = choices.find(([key]) => key === answer)?.[1] ?? answer;
  return `<p class="verdict ${given === answer ? "right" : "wrong"}">${given === answer ? t("right") : t("wrong", { answer: label })}</p>`;
}

// ---- the diagram

const gridOf = (n) => {
  const columns = Math.ceil(Math.sqrt(n));
  return { columns, rows: Math.ceil(n / columns) };
};

// The colour of a number: blue above 0, orange below, stronger for larger ones.
const shade = (value, largest) => `rgb(var(${value < 0 ? "--minus" : "--plus"}) / ${(largest ? Math.min(1, Math.abs(value) / largest) : 0).toFixed(3)})`;

function cells(values, x, y, side, columns, attributes = () => "") {
  const largest = Math.max(...Array.from(values, Math.abs));
  return Array.from(values, (value, i) => `<rect class="cell" x="${(x + (i % columns) * side).toFixed(2)}" y="${(y + Math.floor(i / columns) * side).toFixed(2)}" width="${side.toFixed(2)}" height="${side.toFixed(2)}" style="fill: ${shade(value, largest)}" ${attributes(i)}/>`);
}

// Where everything is: layers from left to right, or from top to bottom on a narrow screen.
function layout(width) {
  const isTall = width < 560, room = isTall ? Math.floor((width - 16) / 46) : 30;
  const isMap = SIZES.map((n) => n > room);
  const most = Math.max(2, ...SIZES.filter((_, l) => !isMap[l]));
  const across = isTall ? width : Math.max(300, Math.min(most * 92, Math.max(most * 40, 640)));
  const along = isTall ? SIZES.reduce((sum, _, l) => sum + (isMap[l] ? 240 : 128), 0) : width;
  const wide = (l) => (isMap[l] ? 104 : 0);
  const margin = isTall ? Math.max(56, wide(0) + 12) : Math.max(DATA.input_names.length ? 150 : 60, wide(0));
  const end = isTall ? Math.max(70, wide(LAST) + 30) : Math.max(DATA.output_names.length ? 150 : 108, wide(LAST));
  const radius = Math.min(26, (across / most) * 0.34);
  const at = (l) => margin + ((along - margin - end) * l) / LAST;
  const mapSide = (l) => Math.min(18, 190 / gridOf(SIZES[l]).columns);
  const place = (l, i) => {
    if (isMap[l]) {
      const { columns, rows } = gridOf(SIZES[l]), side = mapSide(l);
      const dx = ((i % columns) - (columns - 1) / 2) * side, dy = (Math.floor(i / columns) - (rows - 1) / 2) * side;
      return isTall ? [across / 2 + dx, at(l) + dy] : [at(l) + dx, across / 2 + dy];
    }
    const off = (across * (i + 0.5)) / SIZES[l];
    return isTall ? [off, at(l)] : [at(l), off];
  };
  return { isTall, isMap, width: isTall ? across : along, height: isTall ? along : across, radius, place, mapSide, at, gap: isTall ? 0 : (along - margin - end) / LAST };
}

function diagram(width) {
  const plan = layout(width), found = results(), step = current(), unit = unitOfStep(step);
  const focus = state.selected?.parameter ?? null, selectedUnit = state.selected?.unit ?? (state.selected ? null : unit);
  const showsDelta = STEPS.findIndex((s) => s.phase === "backward") <= state.step;
  const edges = [], labels = [], nodes = [];
  for (let l = 1; l <= LAST; l++) {
    const kind = DATA.layers[l - 1].parameters.W ? "W" : null;
    const targets = plan.isMap[l] ? [chosen(l)] : Array.from({ length: SIZES[l] }, (_, i) => i);
    const sources = plan.isMap[l - 1] ? [chosen(l - 1)] : Array.from({ length: SIZES[l - 1] }, (_, j) => j);
    const pairs = targets.flatMap((i) => (kind ? sources : sources.filter((j) => j === i)).map((j) => [i, j]));
    const weights = pairs.map(([i, j]) => (kind ? state.edited.theta[placeOf({ l, kind, i, j })] : 1));
    const largest = Math.max(...weights.map(Math.abs), 1e-300);
    pairs.forEach(([i, j], k) => {
      const [x1, y1] = plan.place(l - 1, j), [x2, y2] = plan.place(l, i), w = weights[k];
      const isFocus = focus ? focus.l === l && focus.i === i && focus.j === j
        : selectedUnit && ((selectedUnit.l === l && selectedUnit.i === i && step.phase !== "backward") || (selectedUnit.l === l - 1 && selectedUnit.i === j && (step.phase === "backward" || selectedUnit.l === 0)));
      const line = `x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}"`;
      const target = kind ? `data-parameter="${PARAMETERS.indexOf(lookup({ l, kind, i, j }))}"` : "";
      edges.push(`<g class="edge${isFocus ? " focus" : ""}" ${target}><line class="hit" ${line}/><line ${line} style="stroke: rgb(var(${w < 0 ? "--minus" : "--plus"})); stroke-width: ${(0.8 + (3.2 * Math.abs(w)) / largest).toFixed(2)}"/></g>`);
      if (kind && (isFocus && pairs.length <= 64 || (pairs.length <= 24 && plan.gap > 190))) {
        const share = targets.length === 1 ? 0.5 : sources.length === 1 ? 0.62 : 0.26 + (0.5 * (targets.indexOf(i) + 0.5)) / targets.length;
        const x = x1 + (x2 - x1) * share, y = y1 + (y2 - y1) * share;
        labels.push(`<g class="weight${isFocus ? " focus" : ""}" ${target}><rect x="${(x - 19).toFixed(1)}" y="${(y - 8).toFixed(1)}" width="38" height="15" rx="4"/><text x="${x.toFixed(1)}" y="${(y + 3.5).toFixed(1)}">${plain(w, 2)}</text></g>`);
      }
    });
  }
  for (let l = 0; l <= LAST; l++) nodes.push(plan.isMap[l] ? mapNode(plan, l, showsDelta, selectedUnit) : Array.from({ length: SIZES[l] }, (_, i) => circle(plan, l, i, showsDelta, selectedUnit)).join(""));
  const heads = SIZES.map((_, l) => (plan.isTall ? "" : `<text class="head" x="${plan.at(l).toFixed(1)}" y="-14">${layerName(l)}</text>`)).join("");
  return `<svg role="group" aria-label="${t("diagram")}" viewBox="0 ${plan.isTall ? 0 : -30} ${plan.width.toFixed(0)} ${(plan.height + (plan.isTall ? 0 : 46)).toFixed(0)}" width="${plan.width.toFixed(0)}">${heads}<g aria-hidden="true">${edges.join("")}${labels.join("")}</g>${nodes.join("")}</svg>`;
}

function circle(plan, l, i, showsDelta, selected) {
  const [x, y] = plan.place(l, i), unit = FIRST[l] + i, r = plan.radius, mark = health(l, i);
  const known = l === 0 || reached("forward", l, i), knowsDelta = l > 0 && showsDelta && reached("backward", l, i);
  const a = outputOf(l, i), d = l > 0 ? results().layers[l - 1].delta[i] : 0;
  const largest = Math.max(...Array.from({ length: SIZES[l] }, (_, k) => Math.abs(outputOf(l, k))));
  const isSelected = selected && selected.l === l && selected.i === i, name = unitName(l, i);
  const label = [t("unit_title", { u: unit, place: placeName(l) }), name, known ? `${l ? "a" : "x"} = ${plain(a)}` : "", knowsDelta ? `delta = ${plain(d)}` : "", mark ? t(mark) : ""].filter(Boolean).join(", ");
  const texts = [];
  if (r >= 15) {
    texts.push(`<text class="unit" x="${x}" y="${y - r * 0.28}">${unit}</text>`);
    if (known) texts.push(`<text class="value" x="${x}" y="${y + r * 0.42}" style="font-size: ${(0.44 * r).toFixed(1)}px">${short(a)}</text>`);
  } else texts.push(`<text class="unit" x="${x}" y="${y + 3.5}">${unit}</text>`);
  if (knowsDelta) texts.push(`<text class="delta" x="${x}" y="${y + r + 12}">δ ${plain(d, 2)}</text>`);
  if (name && !plan.isTall) texts.push(`<text class="name ${l ? "out" : "in"}" x="${l ? x + r + 8 : x - r - 8}" y="${y + 4}">${escape(cut(name))}${l ? `, y ${short(state.edited.y[state.sample][i])}` : ""}</text>`);
  if (name && plan.isTall) texts.push(`<text class="name tall" x="${x}" y="${l ? y + r + (knowsDelta ? 24 : 13) : y - r - 6}">${escape(cut(name, 9))}</text>`);
  if (l === LAST && !plan.isTall && !name) texts.push(`<text class="name out" x="${x + r + 6}" y="${y + 4}">y ${short(state.edited.y[state.sample][i])}</text>`);
  if (mark) texts.push(`<text class="marked" x="${x}" y="${y - r - 4}">${t(mark)}</text>`);
  return `<g class="node${isSelected ? " focus" : ""}${mark ? ` ${mark}` : ""}" role="button" tabindex="0" data-unit="${l},${i}" id="unit-${unit}" aria-label="${escape(label)}" aria-pressed="${!!isSelected}"><circle class="ground" cx="${x}" cy="${y}" r="${r}"/><circle cx="${x}" cy="${y}" r="${r}" style="fill: ${known ? shade(0.6 * a, largest) : "none"}"/>${texts.join("")}</g>`;
}

function mapNode(plan, l, showsDelta, selected) {
  const { columns, rows } = gridOf(SIZES[l]), side = plan.mapSide(l), [x, y] = plan.place(l, 0), i = chosen(l);
  const asDelta = l > 0 && showsDelta && reached("backward", l, i), known = l === 0 || reached("forward", l, i);
  const values = Array.from({ length: SIZES[l] }, (_, k) => (!known ? 0 : asDelta ? results().layers[l - 1].delta[k] : outputOf(l, k)));
  const label = `${t("layer_map", { name: layerName(l), n: SIZES[l] })}, ${t("selected")} ${FIRST[l] + i}`;
  const [cx, cy] = plan.place(l, i), isSelected = selected && selected.l === l;
  const frame = `<rect class="frame" x="${x - side / 2}" y="${y - side / 2}" width="${columns * side}" height="${rows * side}"/>`;
  const mark = `<rect class="chosen${isSelected ? " focus" : ""}" x="${(cx - side / 2).toFixed(1)}" y="${(cy - side / 2).toFixed(1)}" width="${side}" height="${side}"/>`;
  const below = y - side / 2 + rows * side + 16;
  return `<g class="map" role="button" tabindex="0" data-unit="${l},${i}" id="map-${l}" aria-label="${escape(label)}" aria-pressed="${!!isSelected}">${frame}${cells(values, x - side / 2, y - side / 2, side, columns, (k) => `data-unit="${l},${k}"`).join("")}${mark}<text class="unit" x="${x - side / 2 + (columns * side) / 2}" y="${below}">${FIRST[l] + i}: ${known ? plain(outputOf(l, i), 3) : ""}${asDelta ? ` δ ${plain(values[i], 2)}` : ""}</text></g>`;
}

const cut = (text, most = 18) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// ---- the page

const $ = (id) => document.getElementById(id);

function render() {
  const step = current(), asking = isAsking(), focused = document.activeElement?.id;
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  $("lead").textContent = t("lead");
  $("languages").innerHTML = Object.keys(TEXTS).map((name) => `<button id="language-${name}" lang="${name}" data-language="${name}" aria-pressed="${name === state.language}">${TEXTS[name].language}</button>`).join("")
    + ` <button id="theme" data-do="theme">${t(isDark() ? "light" : "dark")}</button>`;
  $("phases").innerHTML = PHASES.map((phase) => `<button id="phase-${phase}" data-phase="${phase}" ${phase === step.phase ? 'aria-current="step"' : ""}>${t(`phase_${phase}`)}</button>`).join("");
  $("phases").setAttribute("aria-label", t("phases"));
  $("player").setAttribute("aria-label", t("steps"));
  $("player").innerHTML = `<button id="first" data-do="first" aria-label="${t("first")}">«</button> <button id="back" data-do="back">${t("back")}</button>
    <button id="play" data-do="play">${t(state.playing ? "pause" : "play")}</button> <button id="next" data-do="next" class="main">${t("next")}</button>
    <span>${t("step_of", { k: state.step + 1, n: STEPS.length })}</span> <label><input id="ask" type="checkbox" data-do="ask"${state.ask ? " checked" : ""}> ${t("ask")}</label>`;
  const shown = SAMPLES < DATA.samples ? `<span class="dim">${t("samples_shown", { m: SAMPLES, n: DATA.samples })}</span>` : "";
  $("samples").innerHTML = `<button id="previous" data-do="previous" aria-label="${t("previous_sample")}"${SAMPLES > 1 ? "" : " disabled"}>◀</button> <span>${t("sample_of", { k: state.sample + 1, m: SAMPLES })}</span>
    <button id="following" data-do="following" aria-label="${t("next_sample")}"${SAMPLES > 1 ? "" : " disabled"}>▶</button> ${shown}
    ${numbers().isChanged ? `<span class="changed">${t("changed")}</span> <button id="reset" data-do="reset">${t("reset")}</button>` : ""}`;
  $("diagram").innerHTML = diagram($("diagram").clientWidth);
  $("diagram").insertAdjacentHTML("beforeend", `<p class="dim">${t("legend")}</p>`);
  const { selected } = state, unit = unitOfStep(step);
  const card = asking ? asked() : selected?.unit ? unitCard(selected.unit.l, selected.unit.i) : selected?.parameter ? parameterCard(selected.parameter) : verdict() + EXPLANATIONS[step.phase](unit);
  $("panel").innerHTML = card;
  $("panel").setAttribute("aria-label", t("panel"));
  $("about").textContent = `${t("agreement", { e: plain(AGREEMENT, 2) })} ${t("keys")}`;
  if (focused) $(focused)?.focus();
}

function go(step) {
  state.step = Math.max(0, Math.min(STEPS.length - 1, step));
  state.selected = null;
  render();
}

function stop() {
  clearInterval(state.playing);
  state.playing = null;
}

function advance() {
  if (isAsking()) return;
  if (state.step === STEPS.length - 1) stop();
  go(state.step + 1);
}

const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

const ACTIONS = {
  first: () => go(0),
  back: () => go(state.step - 1),
  next: () => { stop(); go(state.step + 1); },
  play: () => {
    if (state.playing) stop();
    else {
      if (state.step === STEPS.length - 1) state.step = 0;
      state.playing = setInterval(advance, 2500);
    }
    state.selected = null;
    render();
  },
  ask: () => { state.ask = !state.ask; render(); },
  previous: () => { showSample((state.sample + SAMPLES - 1) % SAMPLES); },
  following: () => { showSample((state.sample + 1) % SAMPLES); },
  reset: () => { state.edited = copied(original); state.version++; render(); },
  theme: () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; render(); },
  descend: () => {
    const { gradient } = batch(), { theta, eta } = state.edited;
    state.edited.theta = theta.map((w, k) => w - eta * gradient[k]);
    state.version++;
    render();
  },
};

function showSample(k) {
  state.sample = k;
  state.answers = {};
  render();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-do],[data-phase],[data-unit],[data-parameter],[data-sample],[data-language],[data-answer],[data-zero]");
  if (!target) return;
  const { data = target.dataset } = {};
  if (data.do) { if (target.type !== "checkbox") ACTIONS[data.do](); }
  else if (data.phase) { stop(); go(STEPS.findIndex((step) => step.phase === data.phase)); }
  else if (data.language) { state.language = data.language; render(); }
  else if (data.answer !== undefined) { state.answers[state.step] = data.answer; render(); }
  else if (data.zero) { const [what, key] = data.zero.split(","); change(what, Number(key), 0); render(); }
  else if (data.sample) showSample(Number(data.sample));
  else if (data.parameter) { stop(); state.selected = { parameter: state.shown = PARAMETERS[data.parameter] }; render(); }
  else selectUnit(...data.unit.split(",").map(Number));
});

function selectUnit(l, i) {
  stop();
  state.chosen[l] = i;
  state.selected = { unit: { l, i } };
  render();
}

document.addEventListener("change", ({ target }) => {
  const { edit: edited, choose, shown, do: action } = target.dataset;
  if (edited) { const [what, key] = edited.split(","); change(what, Number(key), target.value === "" ? NaN : Number(target.value)); render(); }
  else if (choose !== undefined) {
    state.chosen[choose] = Number(target.value);
    if (state.selected) state.selected = { unit: { l: Number(choose), i: Number(target.value) } };
    render();
  } else if (shown !== undefined) { state.shown = PARAMETERS[target.value]; render(); }
  else if (action) ACTIONS[action]();
});

document.addEventListener("keydown", (event) => {
  const isControl = event.target.closest("input,select,button,summary,a"), isUnit = event.target.closest?.("[data-unit][tabindex]");
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input,select")) return;
  if (event.key === "ArrowRight") ACTIONS.next();
  else if (event.key === "ArrowLeft") { stop(); ACTIONS.back(); }
  else if ((event.key === "Enter" || event.key === " ") && isUnit) selectUnit(...isUnit.dataset.unit.split(",").map(Number));
  else if (event.key === " " && !isControl) ACTIONS.play();
  else return;
  event.preventDefault();
});

let width = 0;
new ResizeObserver(() => { if ($("diagram").clientWidth !== width) { width = $("diagram").clientWidth; render(); } }).observe($("diagram"));
const AGREEMENT = disagreement();
render();
