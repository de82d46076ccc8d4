// Texts in the chosen language, numbers, formulas in MathML, and tables.

function t(key, values = {}) {
  return TEXTS[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

// Four significant digits.
function plain(value, digits = 4) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  if (!text.includes("e") && text.includes(".")) text = text.replace(/\.?0+$/, "");
  return text
    .replace(
      /e\+?(-?\d+)/,
      (_, power) => `·10${[...power].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`,
    )
    .replace(/^-/, "−");
}

// A number short enough for a circle.
function short(value) {
  if (!(Math.abs(value) < 10)) return plain(value, 3);
  const text = plain(Number(value.toFixed(3)));
  return text === "0" && value !== 0 ? "≈ 0" : text;
}

const num = (value, digits) =>
  `<span class="num ${value < 0 ? "minus" : "plus"}" title="${value}">${plain(value, digits)}</span>`;

const mi = (name) => `<mi>${name}</mi>`;
const mo = (sign) => `<mo>${sign}</mo>`;
const mn = (value) =>
  typeof value === "number"
    ? value < 0
      ? `<mrow><mo>(</mo><mn>${plain(value)}</mn><mo>)</mo></mrow>`
      : `<mn>${plain(value)}</mn>`
    : `<mn>${value}</mn>`;
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
// For tables, where axe does not recognise MathML.
const symbol = (name, index) => `<i>${name}</i><sub>${index}</sub>`;
const delta = (unit) => sub("δ", unit);

function unitName(l, i) {
  const names = l === 0 ? DATA.input_names : l === LAST ? DATA.output_names : [];
  return names.length ? names[i] : "";
}

const placeName = (l) => (l === 0 ? t("input_unit") : l === LAST ? t("output_unit") : t("hidden_unit", { l }));
const layerName = (l) => (l === 0 ? t("layer_inputs") : l === LAST ? t("layer_outputs") : t("layer_hidden", { l }));

function table(head, rows) {
  // If a row has fewer cells than the header, its name spans the missing ones.
  const cells = (row) =>
    row
      .map((cell, k) =>
        k ? `<td>${cell}</td>` : `<th scope="row" colspan="${head.length - row.length + 1}">${cell}</th>`,
      )
      .join("");
  const body = rows.map((row) => `<tr${row.total ? ' class="total"' : ""}>${cells(row)}</tr>`).join("");
  return `<div class="scroll" tabindex="0" role="group" aria-label="${escape(head[0])}"><table><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr></thead><tbody>${body}</tbody></table></div>`;
}

const total = (...row) => Object.assign(row, { total: true });

function parameterButton(parameter) {
  return `<button class="link" data-parameter="${placeOf(parameter)}">${parameterHtml(parameter)}</button>`;
}

const parameterHtml = (parameter) => parameterText(parameter).replace(/^([a-z]+)(.*)$/, "$1<sub>$2</sub>");

const unitButton = (l, i, text) => `<button class="link" data-unit="${l},${i}">${text ?? FIRST[l] + i}</button>`;
