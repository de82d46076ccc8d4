// The network as SVG: circles and lines, and heat maps for large layers.

const gridOf = (n) => {
  const columns = Math.ceil(Math.sqrt(n));
  return { columns, rows: Math.ceil(n / columns) };
};

// The colour of a number: blue above 0, orange below, stronger for larger ones.
const shade = (value, largest) =>
  `rgb(var(${value < 0 ? "--minus" : "--plus"}) / ${(largest ? Math.min(1, Math.abs(value) / largest) : 0).toFixed(3)})`;

function cells(values, x, y, side, columns, attributes = () => "") {
  const largest = Math.max(...Array.from(values, Math.abs));
  return Array.from(
    values,
    (value, i) =>
      `<rect class="cell" x="${(x + (i % columns) * side).toFixed(2)}" y="${(y + Math.floor(i / columns) * side).toFixed(2)}" width="${side.toFixed(2)}" height="${side.toFixed(2)}" style="fill: ${shade(value, largest)}" ${attributes(i)}/>`,
  );
}

// The layout: layers from left to right, or from top to bottom on a narrow screen.
function layout(width) {
  const isTall = width < 560,
    room = isTall ? Math.floor((width - 16) / 46) : 30;
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
      const { columns, rows } = gridOf(SIZES[l]),
        side = mapSide(l);
      const dx = ((i % columns) - (columns - 1) / 2) * side,
        dy = (Math.floor(i / columns) - (rows - 1) / 2) * side;
      return isTall ? [across / 2 + dx, at(l) + dy] : [at(l) + dx, across / 2 + dy];
    }
    const off = (across * (i + 0.5)) / SIZES[l];
    return isTall ? [off, at(l)] : [at(l), off];
  };
  return {
    isTall,
    isMap,
    width: isTall ? across : along,
    height: isTall ? along : across,
    radius,
    place,
    mapSide,
    at,
    gap: isTall ? 0 : (along - margin - end) / LAST,
  };
}

function diagram(width) {
  const plan = layout(width),
    found = results(),
    step = current(),
    unit = unitOfStep(step);
  const focus = state.selected?.parameter ?? null,
    selectedUnit = state.selected?.unit ?? (state.selected ? null : unit);
  const showsDelta = STEPS.findIndex((s) => s.phase === "backward") <= state.step;
  const edges = [],
    labels = [],
    nodes = [];
  for (let l = 1; l <= LAST; l++) {
    const kind = DATA.layers[l - 1].parameters.W ? "W" : null;
    const targets = plan.isMap[l] ? [chosen(l)] : Array.from({ length: SIZES[l] }, (_, i) => i);
    const sources = plan.isMap[l - 1] ? [chosen(l - 1)] : Array.from({ length: SIZES[l - 1] }, (_, j) => j);
    const pairs = targets.flatMap((i) => (kind ? sources : sources.filter((j) => j === i)).map((j) => [i, j]));
    const weights = pairs.map(([i, j]) => (kind ? state.edited.theta[placeOf({ l, kind, i, j })] : 1));
    const largest = Math.max(...weights.map(Math.abs), 1e-300);
    pairs.forEach(([i, j], k) => {
      const [x1, y1] = plan.place(l - 1, j),
        [x2, y2] = plan.place(l, i),
        w = weights[k];
      const isFocus = focus
        ? focus.l === l && focus.i === i && focus.j === j
        : selectedUnit &&
          ((selectedUnit.l === l && selectedUnit.i === i && step.phase !== "backward") ||
            (selectedUnit.l === l - 1 && selectedUnit.i === j && (step.phase === "backward" || selectedUnit.l === 0)));
      const line = `x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}"`;
      const target = kind ? `data-parameter="${placeOf({ l, kind, i, j })}"` : "";
      edges.push(
        `<g class="edge${isFocus ? " focus" : ""}" ${target}><line class="hit" ${line}/><line ${line} style="stroke: rgb(var(${w < 0 ? "--minus" : "--plus"})); stroke-width: ${(0.8 + (3.2 * Math.abs(w)) / largest).toFixed(2)}"/></g>`,
      );
      if (kind && ((isFocus && pairs.length <= 64) || (pairs.length <= 24 && plan.gap > 190))) {
        const share =
          targets.length === 1
            ? 0.5
            : sources.length === 1
              ? 0.62
              : 0.26 + (0.5 * (targets.indexOf(i) + 0.5)) / targets.length;
        const x = x1 + (x2 - x1) * share,
          y = y1 + (y2 - y1) * share;
        labels.push(
          `<g class="weight${isFocus ? " focus" : ""}" ${target}><rect x="${(x - 19).toFixed(1)}" y="${(y - 8).toFixed(1)}" width="38" height="15" rx="4"/><text x="${x.toFixed(1)}" y="${(y + 3.5).toFixed(1)}">${plain(w, 2)}</text></g>`,
        );
      }
    });
  }
  for (let l = 0; l <= LAST; l++)
    nodes.push(
      plan.isMap[l]
        ? mapNode(plan, l, showsDelta, selectedUnit)
        : Array.from({ length: SIZES[l] }, (_, i) => circle(plan, l, i, showsDelta, selectedUnit)).join(""),
    );
  const heads = SIZES.map((_, l) =>
    plan.isTall ? "" : `<text class="head" x="${plan.at(l).toFixed(1)}" y="-14">${layerName(l)}</text>`,
  ).join("");
  return `<svg role="group" aria-label="${t("diagram")}" viewBox="0 ${plan.isTall ? 0 : -30} ${plan.width.toFixed(0)} ${(plan.height + (plan.isTall ? 0 : 46)).toFixed(0)}" width="${plan.width.toFixed(0)}">${heads}<g aria-hidden="true">${edges.join("")}${labels.join("")}</g>${nodes.join("")}</svg>`;
}

function circle(plan, l, i, showsDelta, selected) {
  const [x, y] = plan.place(l, i),
    unit = FIRST[l] + i,
    r = plan.radius,
    mark = health(l, i);
  const known = l === 0 || reached("forward", l, i),
    knowsDelta = l > 0 && showsDelta && reached("backward", l, i);
  const a = outputOf(l, i),
    d = l > 0 ? results().layers[l - 1].delta[i] : 0;
  const largest = Math.max(...Array.from({ length: SIZES[l] }, (_, k) => Math.abs(outputOf(l, k))));
  const isSelected = selected && selected.l === l && selected.i === i,
    name = unitName(l, i);
  const label = [
    t("unit_title", { u: unit, place: placeName(l) }),
    name,
    known ? `${l ? "a" : "x"} = ${plain(a)}` : "",
    knowsDelta ? `delta = ${plain(d)}` : "",
    mark ? t(mark) : "",
  ]
    .filter(Boolean)
    .join(", ");
  const texts = [];
  if (r >= 15) {
    texts.push(`<text class="unit" x="${x}" y="${y - r * 0.28}">${unit}</text>`);
    if (known)
      texts.push(
        `<text class="value" x="${x}" y="${y + r * 0.42}" style="font-size: ${(0.44 * r).toFixed(1)}px">${short(a)}</text>`,
      );
  } else texts.push(`<text class="unit" x="${x}" y="${y + 3.5}">${unit}</text>`);
  if (knowsDelta) texts.push(`<text class="delta" x="${x}" y="${y + r + 12}">δ ${plain(d, 2)}</text>`);
  if (name && !plan.isTall)
    texts.push(
      `<text class="name ${l ? "out" : "in"}" x="${l ? x + r + 8 : x - r - 8}" y="${y + 4}">${escape(cut(name))}${l ? `, y ${short(state.edited.y[state.sample][i])}` : ""}</text>`,
    );
  if (name && plan.isTall)
    texts.push(
      `<text class="name tall" x="${x}" y="${l ? y + r + (knowsDelta ? 24 : 13) : y - r - 6}">${escape(cut(name, 9))}</text>`,
    );
  if (l === LAST && !plan.isTall && !name)
    texts.push(
      `<text class="name out" x="${x + r + 6}" y="${y + 4}">y ${short(state.edited.y[state.sample][i])}</text>`,
    );
  if (mark) texts.push(`<text class="marked" x="${x}" y="${y - r - 4}">${t(mark)}</text>`);
  return `<g class="node${isSelected ? " focus" : ""}${mark ? ` ${mark}` : ""}" role="button" tabindex="0" data-unit="${l},${i}" id="unit-${unit}" aria-label="${escape(label)}" aria-pressed="${!!isSelected}"><circle class="ground" cx="${x}" cy="${y}" r="${r}"/><circle cx="${x}" cy="${y}" r="${r}" style="fill: ${known ? shade(0.6 * a, largest) : "none"}"/>${texts.join("")}</g>`;
}

function mapNode(plan, l, showsDelta, selected) {
  const { columns, rows } = gridOf(SIZES[l]),
    side = plan.mapSide(l),
    [x, y] = plan.place(l, 0),
    i = chosen(l);
  const asDelta = l > 0 && showsDelta && reached("backward", l, i),
    known = l === 0 || reached("forward", l, i);
  const values = Array.from({ length: SIZES[l] }, (_, k) =>
    !known ? 0 : asDelta ? results().layers[l - 1].delta[k] : outputOf(l, k),
  );
  const label = `${t("layer_map", { name: layerName(l), n: SIZES[l] })}, ${t("selected")} ${FIRST[l] + i}`;
  const [cx, cy] = plan.place(l, i),
    isSelected = selected && selected.l === l;
  const frame = `<rect class="frame" x="${x - side / 2}" y="${y - side / 2}" width="${columns * side}" height="${rows * side}"/>`;
  const mark = `<rect class="chosen${isSelected ? " focus" : ""}" x="${(cx - side / 2).toFixed(1)}" y="${(cy - side / 2).toFixed(1)}" width="${side}" height="${side}"/>`;
  const below = y - side / 2 + rows * side + 16;
  return `<g class="map" role="button" tabindex="0" data-unit="${l},${i}" id="map-${l}" aria-label="${escape(label)}" aria-pressed="${!!isSelected}">${frame}${cells(values, x - side / 2, y - side / 2, side, columns, (k) => `data-unit="${l},${k}"`).join("")}${mark}<text class="unit" x="${x - side / 2 + (columns * side) / 2}" y="${below}">${FIRST[l] + i}: ${known ? plain(outputOf(l, i), 3) : ""}${asDelta ? ` δ ${plain(values[i], 2)}` : ""}</text></g>`;
}

const cut = (text, most = 18) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
