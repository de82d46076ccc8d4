// The steps of the walk, and the question that each of them can ask first.

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

const stepOf = (phase, l, i) =>
  STEPS.findIndex((step) => step.phase === phase && step.l === l && (!perUnit(l) || step.i === i));

// The unit that stands for a large layer: the one that the user has chosen, else the one with the largest |a|.
function chosen(l) {
  if (state.chosen[l] === undefined) {
    const sizes = Array.from({ length: SIZES[l] }, (_, i) => Math.abs(outputOf(l, i)));
    state.chosen[l] = sizes.indexOf(Math.max(...sizes));
  }
  return state.chosen[l];
}

const current = () => STEPS[state.step];
const unitOfStep = (step) =>
  step.l === undefined ? null : { l: step.l, i: perUnit(step.l) ? step.i : chosen(step.l) };

// Whether a number of the diagram has been computed by now; a question hides that of its own step.
const reached = (phase, l, i) => stepOf(phase, l, i) < state.step + (isAsking() ? 0 : 1);

// ---- questions

function question(step) {
  const unit = unitOfStep(step),
    sign = (value) => (value > 0 ? "positive" : value < 0 ? "negative" : "zero");
  const signs = ["positive", "negative", "zero"].map((key) => [key, t(key)]);
  if (step.phase === "forward")
    return {
      text: t("q_forward_z", { u: FIRST[unit.l] + unit.i }),
      choices: signs,
      answer: sign(results().layers[unit.l - 1].z[unit.i]),
    };
  if (step.phase === "backward")
    return {
      text: t("q_backward", { u: FIRST[unit.l] + unit.i }),
      choices: signs,
      answer: sign(results().layers[unit.l - 1].delta[unit.i]),
    };
  if (step.phase === "cost") {
    const d = results().layers[LAST - 1].delta,
      i = d.reduce((best, value, k) => (Math.abs(value) > Math.abs(d[best]) ? k : best), 0);
    return {
      text: t("q_cost", { u: FIRST[LAST] + i }),
      choices: ["rises", "falls", "stays"].map((key) => [key, t(key)]),
      answer: d[i] > 0 ? "rises" : d[i] < 0 ? "falls" : "stays",
    };
  }
  if (step.phase === "gradient") {
    const sorted = bySize(PARAMETERS, gradientOf),
      three = [sorted[0], sorted[sorted.length >> 1], sorted[sorted.length - 1]];
    return {
      text: t("q_gradient"),
      choices: three.map((p) => [parameterText(p), parameterText(p)]).sort(),
      answer: parameterText(sorted[0]),
    };
  }
  if (step.phase === "batch" || step.phase === "update") {
    const p = shownParameter(),
      k = placeOf(p),
      g = batch().gradient[k],
      share = k < DATA.decayed ? state.edited.decay * state.edited.theta[k] : 0;
    if (step.phase === "update")
      return {
        text: t("q_update", { w: parameterText(p) }),
        choices: ["increases", "decreases", "unchanged"].map((key) => [key, t(key)]),
        answer: g < 0 ? "increases" : g > 0 ? "decreases" : "unchanged",
      };
    return {
      text: t("q_batch", { w: parameterText(p) }),
      choices: signs,
      answer: sign(share),
    };
  }
  return null;
}

const isAsking = () =>
  state.ask && !state.selected && state.answers[state.step] === undefined && question(current()) !== null;

function asked() {
  const { text, choices } = question(current());
  return `<h2>${t("question")}</h2><p class="ask">${text}</p><p>${choices.map(([key, label]) => `<button data-answer="${key}">${label}</button>`).join(" ")} <button class="quiet" data-answer="">${t("reveal")}</button></p>`;
}

function verdict() {
  const given = state.ask && !state.selected ? state.answers[state.step] : undefined;
  if (!given) return "";
  const { choices, answer } = question(current()),
    label = choices.find(([key]) => key === answer)?.[1] ?? answer;
  return `<p class="verdict ${given === answer ? "right" : "wrong"}">${given === answer ? t("right") : t("wrong", { answer: label })}</p>`;
}
