// The panel beside the diagram: a unit, a weight, or a step, with the fields that can be edited.

// ---- explanations

// A sum of products as a table. terms: [name, factor, other factor]; the largest first if there are many.
function sumTable(head, terms, rest) {
  const row = ([name, p, q]) => [name, num(p), num(q), num(p * q)];
  if (terms.length <= IN_FULL) return table(head, [...terms.map(row), ...rest]);
  const sorted = [...terms].sort((p, q) => Math.abs(q[1] * q[2]) - Math.abs(p[1] * p[2]));
  const left = sorted.slice(IN_FULL),
    sum = left.reduce((so, [, p, q]) => so + p * q, 0);
  const whole = `<details><summary>${t("all_terms", { n: terms.length })}</summary>${table(head, terms.map(row))}</details>`;
  return (
    table(head, [...sorted.slice(0, IN_FULL).map(row), [t("more_terms", { n: left.length }), num(sum)], ...rest]) +
    whole
  );
}

function unitCard(l, i, only) {
  const unit = FIRST[l] + i,
    name = unitName(l, i),
    condition = health(l, i);
  const options = Array.from(
    { length: SIZES[l] },
    (_, k) => `<option value="${k}"${k === i ? " selected" : ""}>${FIRST[l] + k} ${escape(unitName(l, k))}</option>`,
  ).join("");
  const choice =
    SIZES[l] > IN_FULL
      ? `<label>${t("choose_unit")} <select data-choose="${l}" id="choose">${options}</select></label>`
      : "";
  const mark = condition ? `<p class="mark"><b>${t(condition)}</b> ${t(`${condition}_why`)}</p>` : "";
  const title = only
    ? ""
    : `<h2>${t("unit_title", { u: unit, place: placeName(l) })}${name ? `: ${escape(name)}` : ""}</h2>`;
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
  const unit = FIRST[l] + i,
    layer = DATA.layers[l - 1],
    { z, a } = results().layers[l - 1];
  const from = l === 1 ? "x" : "a";
  const end = [total(symbol("z", unit), num(z[i]))];
  let body;
  if (layer.parameters.W) {
    const terms = Array.from({ length: SIZES[l - 1] }, (_, j) => {
      const parameter = { l, kind: "W", i, j };
      return [
        `${parameterButton(parameter)} ${symbol(from, FIRST[l - 1] + j)}`,
        state.edited.theta[placeOf(parameter)],
        outputOf(l - 1, j),
      ];
    });
    const bias = { l, kind: "b", i };
    const formula = math(
      sub("z", unit),
      mo("="),
      sumOver(
        "j",
        `<msub><mi>w</mi><mrow><mn>${unit}</mn><mo>,</mo><mi>j</mi></mrow></msub><msub><mi>${from}</mi><mi>j</mi></msub>`,
      ),
      mo("+"),
      sub("b", unit),
    );
    const rest = [[`${parameterButton(bias)} (${t("bias")})`, num(state.edited.theta[placeOf(bias)])], ...end];
    body =
      `<p>${t("forward_why")}${layer.dropout ? ` ${t("dropout_off")}` : ""}</p>${formula}` +
      sumTable([t("term"), t("weight"), t("input"), t("product")], terms, rest) +
      maps(l, i);
  } else {
    const rows = Object.keys(layer.parameters).map((kind) => [
      parameterButton({ l, kind, i }),
      num(state.edited.theta[placeOf({ l, kind, i })]),
    ]);
    body =
      `<p>${t("normalized")} <span class="formula">${escape(layer.layer_formula)}</span></p>` +
      table(
        [t("term"), t("value")],
        [...rows, [t("input"), num(outputOf(l - 1, i))], total(symbol("z", unit), num(z[i]))],
      );
  }
  const output = math(
    sub("a", unit),
    mo("="),
    mi("f"),
    mo("("),
    sub("z", unit),
    mo(")"),
    mo("="),
    mi("f"),
    mo("("),
    `<mn>${plain(z[i])}</mn>`,
    mo(")"),
    mo("="),
    `<mn>${plain(a[i])}</mn>`,
  );
  return `${body}${output}<p class="formula">${escape(layer.activation)}: ${escape(layer.formula)}</p>`;
}

function backwardSum(l, i) {
  const unit = FIRST[l] + i,
    found = results(),
    layer = found.layers[l - 1];
  const slope = l > 0 && SLOPES[l - 1] ? SLOPES[l - 1]([layer.z[i], layer.a[i]])[0] : null;
  const parts = [];
  const result = l > 0 ? `<mn>${plain(layer.delta[i])}</mn>` : "";
  if (l === LAST) {
    const h = layer.a[i],
      y = state.edited.y[state.sample][i];
    parts.push(`<p>${t("output_case")}</p>`);
    if (DATA.loss.canonical)
      parts.push(
        math(
          delta(unit),
          mo("="),
          sub("h", unit),
          mo("−"),
          sub("y", unit),
          mo("="),
          mn(h),
          mo("−"),
          mn(y),
          mo("="),
          result,
        ),
      );
    else if (slope === null) parts.push(math(delta(unit), mo("="), slopeOf("C", sub("z", unit)), mo("="), result));
    else
      parts.push(
        math(
          delta(unit),
          mo("="),
          `${mi("f′")}${mo("(")}${sub("z", unit)}${mo(")")}`,
          mo("·"),
          slopeOf("C", sub("h", unit)),
          mo("="),
          mn(slope),
          mo("·"),
          mn(layer.da[i]),
          mo("="),
          result,
        ),
      );
    parts.push(`<p class="formula">${escape(DATA.loss.name)}: ${escape(DATA.loss.formula)}</p>`);
    return parts.join("");
  }
  const next = DATA.layers[l],
    da = l === 0 ? null : layer.da[i],
    target = l === 0 ? sub("x", unit) : sub("a", unit);
  let sum = da;
  if (next.parameters.W) {
    const terms = Array.from({ length: SIZES[l + 1] }, (_, k) => {
      const parameter = { l: l + 1, kind: "W", i: k, j: i };
      return [
        `${parameterButton(parameter)} ${unitButton(l + 1, k, symbol("δ", FIRST[l + 1] + k))}`,
        state.edited.theta[placeOf(parameter)],
        found.layers[l].delta[k],
      ];
    });
    sum = sum ?? terms.reduce((so, [, w, d]) => so + w * d, 0);
    parts.push(`<p>${t(l === 0 ? "input_case" : "hidden_case")}</p>`);
    const paths = sumOver(
      "k",
      `<msub><mi>w</mi><mrow><mi>k</mi><mo>,</mo><mn>${unit}</mn></mrow></msub><msub><mi>δ</mi><mi>k</mi></msub>`,
    );
    parts.push(
      l === 0
        ? math(slopeOf("C", target), mo("="), paths)
        : math(delta(unit), mo("="), `${mi("f′")}${mo("(")}${sub("z", unit)}${mo(")")}`, paths),
    );
    parts.push(
      sumTable([t("term"), t("weight"), "δ", t("product")], terms, [
        total(`∂<i>C</i>/∂${symbol(l === 0 ? "x" : "a", unit)}`, num(sum)),
      ]),
    );
  } else parts.push(`<p>${t("through_norm")}</p>`, da === null ? "" : math(slopeOf("C", target), mo("="), mn(da)));
  if (l > 0) {
    parts.push(
      math(
        delta(unit),
        mo("="),
        `${mi("f′")}${mo("(")}${mn(plain(layer.z[i]))}${mo(")")}`,
        mo("·"),
        slopeOf("C", target),
        mo("="),
        mn(slope),
        mo("·"),
        mn(sum),
        mo("="),
        result,
      ),
    );
    parts.push(
      `<p class="formula">${escape(DATA.layers[l - 1].activation)}: ${escape(DATA.layers[l - 1].formula)}</p>`,
    );
  }
  return parts.join("");
}

// For a unit with many inputs: its weights and the outputs that they multiply, as pictures.
function maps(l, i) {
  if (SIZES[l - 1] <= 30) return "";
  const weights = Array.from({ length: SIZES[l - 1] }, (_, j) => state.edited.theta[placeOf({ l, kind: "W", i, j })]);
  const inputs = Array.from({ length: SIZES[l - 1] }, (_, j) => outputOf(l - 1, j));
  const picture = (values, label) => {
    const { columns, rows } = gridOf(values.length),
      side = 132 / columns;
    return `<figure><svg role="img" aria-label="${label}" width="132" height="${rows * side}">${cells(values, 0, 0, side, columns).join("")}</svg><figcaption>${label}</figcaption></figure>`;
  };
  return `<div class="maps">${picture(weights, t("weights_map"))}${picture(inputs, t("inputs_map"))}</div>`;
}

function parameterCard(parameter) {
  const { l, kind, i, j } = parameter,
    unit = FIRST[l] + i,
    name = parameterText(parameter);
  const title =
    kind === "W"
      ? t("weight_title", { w: parameterHtml(parameter), j: FIRST[l - 1] + j, i: unit })
      : t(kind === "b" ? "bias_title" : "scale_title", { w: parameterHtml(parameter), i: unit });
  const own = gradientOf(parameter),
    other = centralDifference(placeOf(parameter)),
    factor = factorOf(parameter);
  const source = kind === "W" ? sub(l === 1 ? "x" : "a", FIRST[l - 1] + j) : mn("1");
  const left = slopeOf("C", parameterMath(parameter));
  const product =
    factor === null
      ? math(left, mo("="), `<mn>${plain(own)}</mn>`)
      : math(
          left,
          mo("="),
          delta(unit),
          mo("·"),
          source,
          mo("="),
          mn(results().layers[l - 1].delta[i]),
          mo("·"),
          mn(factor),
          mo("="),
          `<mn>${plain(own, 6)}</mn>`,
        );
  return `<h2>${title}</h2>
    <p>${edit("parameter", placeOf(parameter), parameterHtml(parameter), state.edited.theta[placeOf(parameter)])}</p>
    <p>${kind === "W" ? t("product_why") : kind === "b" ? t("bias_why") : ""}</p>${product}
    <p>${t("difference")}: ${num(other, 6)}, ${t("agrees", { e: plain(Math.abs(own - other), 2) })}. <span class="dim">${t("difference_why")}</span></p>
    <h3>${t("batch_of", { w: parameterHtml(parameter) })}</h3>${batchTable(parameter)}`;
}

function batchTable(parameter) {
  const { l, kind, i, j } = parameter,
    place = placeOf(parameter),
    isWeight = place < DATA.decayed;
  const source = kind === "W" ? symbol(l === 1 ? "x" : "a", FIRST[l - 1] + j) : "";
  const own = state.edited.X.map((_, k) => [
    results(k).layers[l - 1].delta[i],
    factorOf(parameter, k),
    gradientOf(parameter, k),
  ]);
  const rows = own.map(([d, factor, g], k) => [
    `<button class="link" data-sample="${k}">${k + 1}</button>`,
    num(d),
    factor === null || kind !== "W" ? "" : num(factor),
    num(g),
  ]);
  const mean = own.reduce((sum, [, , g]) => sum + g, 0) / SAMPLES;
  rows.push(total(t("mean", { m: SAMPLES }), num(mean)));
  if (isWeight)
    rows.push([
      `${t("decay")} λw = ${plain(state.edited.decay)} · ${plain(state.edited.theta[place])}`,
      num(state.edited.decay * state.edited.theta[place]),
    ]);
  rows.push(total(`∂<i>J</i>/∂${parameterHtml(parameter)}`, num(batch().gradient[place])));
  return table([t("sample"), symbol("δ", FIRST[l] + i), source, t("gradient")], rows);
}

function parameterList(parameters, head, row) {
  const few = parameters.slice(0, 2 * IN_FULL);
  const caption =
    few.length < parameters.length
      ? `<p class="dim">${t("largest", { n: few.length, total: parameters.length })}</p>`
      : "";
  return (
    caption +
    table(
      head,
      few.map((p) => [parameterButton(p), ...row(p)]),
    )
  );
}

const EXPLANATIONS = {
  input: () =>
    `<h2>${t("title_input")}</h2>${inputEditor(DATA.columns.map((_, k) => k))}${targetEditor(Array.from({ length: SIZES[LAST] }, (_, i) => i))}`,
  forward: ({ l, i }) =>
    `<h2>${perUnit(l) ? t("title_forward", { u: FIRST[l] + i }) : t("title_forward_layer", { l, u: FIRST[l] + i })}</h2>${unitCard(l, i, "forward")}`,
  backward: ({ l, i }) =>
    `<h2>${perUnit(l) ? t("title_backward", { u: FIRST[l] + i }) : t("title_backward_layer", { l, u: FIRST[l] + i })}</h2>${unitCard(l, i, "backward")}`,
  cost: () => {
    const found = results(),
      h = found.layers[LAST - 1].a,
      y = state.edited.y[state.sample];
    const rows = Array.from(h, (value, i) => [
      `${unitButton(LAST, i)} ${escape(unitName(LAST, i))}`,
      num(value),
      num(y[i]),
      num(value - y[i]),
    ]);
    return `<h2>${t("title_cost")}</h2><p>${t("cost_why")} <span class="formula">${escape(DATA.loss.name)}: ${escape(DATA.loss.formula)}</span></p>
      ${table([t("output"), "h", "y", t("error")], rows)}${math(mi("C"), mo("="), `<mn>${plain(found.cost)}</mn>`)}${predicted(h, y)}`;
  },
  gradient: () => {
    const sorted = PARAMETERS.length <= 4 * IN_FULL ? PARAMETERS : bySize(PARAMETERS, gradientOf);
    const rows = (p) => [
      num(results().layers[p.l - 1].delta[p.i]),
      factorOf(p) === null ? "" : num(factorOf(p)),
      num(gradientOf(p)),
    ];
    const list =
      PARAMETERS.length <= 4 * IN_FULL
        ? table(
            [t("weight"), "δ", "a", t("gradient")],
            sorted.map((p) => [parameterButton(p), ...rows(p)]),
          )
        : parameterList(sorted, [t("weight"), "δ", "a", t("gradient")], rows);
    return `<h2>${t("title_gradient")}</h2><p>${t("gradient_why")}</p>${math(slopeOf("C", "<msub><mi>w</mi><mrow><mi>i</mi><mo>,</mo><mi>j</mi></mrow></msub>"), mo("="), "<msub><mi>δ</mi><mi>i</mi></msub>", "<msub><mi>a</mi><mi>j</mi></msub>")}${list}`;
  },
  batch: () => {
    const { mean, term, J } = batch(),
      parameter = shownParameter();
    const costs = state.edited.X.map((_, k) => [
      `<button class="link" data-sample="${k}">${k + 1}</button>`,
      num(results(k).cost),
    ]);
    const few =
      PARAMETERS.length <= 300 ? PARAMETERS : bySize(PARAMETERS, (p) => batch().gradient[placeOf(p)]).slice(0, 300);
    const options = [...new Set([parameter, ...few])]
      .map((p) => `<option value="${placeOf(p)}"${p === parameter ? " selected" : ""}>${parameterText(p)}</option>`)
      .join("");
    const objectiveOf = math(
      mi("J"),
      mo("="),
      frac(mn("1"), mi("m")),
      sumOver("n", "<msup><mi>C</mi><mi>n</mi></msup>"),
      mo("+"),
      frac(mi("λ"), mn("2")),
      mo("∑"),
      "<msup><mi>w</mi><mn>2</mn></msup>",
      mo("="),
      mn(mean),
      mo("+"),
      mn(term),
      mo("="),
      `<mn>${plain(J)}</mn>`,
    );
    return `<h2>${t("title_batch")}</h2><p>${t("batch_why")}</p>
      <p><label>${t("choose_weight")} <select id="shown" data-shown>${options}</select></label> ${edit("decay", 0, t("lambda"), state.edited.decay)}</p>
      <h3>${t("batch_of", { w: parameterHtml(parameter) })}</h3>${batchTable(parameter)}<h3>${t("cost_of_batch")}</h3>${objectiveOf}
      <details><summary>${t("sample")}, C</summary>${table([t("sample"), "C"], costs)}</details>`;
  },
  update: () => {
    const { gradient, J } = batch(),
      { theta, eta } = state.edited;
    const after = theta.map((w, k) => w - eta * gradient[k]),
      sorted = bySize(PARAMETERS, (p) => gradient[placeOf(p)]);
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
  return (
    state.shown ??
    bySize(
      PARAMETERS.filter((p) => p.kind === "W"),
      (p) => batch().gradient[placeOf(p)],
    )[0] ??
    PARAMETERS[0]
  );
}

function predicted(h, y) {
  const { name, labels, mean, scale } = DATA.target;
  if (labels.length) {
    const k = labels.length === 2 && h.length === 1 ? +(h[0] >= 0.5) : h.indexOf(Math.max(...h));
    return `<p>${t("predicted", { label: escape(labels[k]) })}</p>`;
  }
  return name
    ? `<p>${t("own_unit", { name: escape(name), h: plain(h[0] * scale + mean), y: plain(y[0] * scale + mean) })}</p>`
    : "";
}

// ---- editing

function edit(what, key, label, value, zero = false) {
  const id = `edit-${what}-${key}`;
  return `<span class="edit"><label for="${id}">${label}</label> <input id="${id}" type="number" step="any" value="${Number(value.toPrecision(6))}" data-edit="${what},${key}">${zero ? ` <button data-zero="${what},${key}">${t("set_zero")}</button>` : ""}</span>`;
}

const columnOf = (i) => DATA.columns.findIndex((column) => column.units.includes(i));

function inputEditor(columns) {
  return editors(
    columns.map((k) => {
      const { name, categories, mean, scale, units } = DATA.columns[k],
        x = state.edited.X[state.sample][k];
      const label = `x<sub>${FIRST[0] + units[0]}</sub>${name ? ` ${escape(name)}` : ""}`;
      const standard = scale === 1 && mean === 0 ? "" : ` <span class="dim">${t("taken_as", { x: plain(x) })}</span>`;
      if (!categories.length) return edit("input", k, label, x * scale + mean, true) + standard;
      const options = ["", ...categories].map(
        (category, at) =>
          `<option value="${at - 1}"${at - 1 === x ? " selected" : ""}>${escape(category) || "–"}</option>`,
      );
      return `<span class="edit"><label for="edit-input-${k}">${escape(name) || label}</label> <select id="edit-input-${k}" data-edit="input,${k}">${options.join("")}</select></span>`;
    }),
  );
}

function targetEditor(outputs) {
  const y = state.edited.y[state.sample];
  return editors(
    outputs.map((i) =>
      edit(
        "target",
        i,
        `y<sub>${FIRST[LAST] + i}</sub>${unitName(LAST, i) ? ` ${escape(unitName(LAST, i))}` : ""}`,
        y[i],
      ),
    ),
  );
}

function editors(list) {
  const few = `<p class="editors">${list.map((editor) => `<span>${editor}</span>`).join("")}</p>`;
  return list.length <= 2 * IN_FULL
    ? few
    : `<details><summary>${t("all_terms", { n: list.length })}</summary>${few}</details>`;
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
