// The page: it redraws everything after each change, and handles clicks, changes and keys.

const $ = (id) => document.getElementById(id);

function render() {
  const step = current(),
    asking = isAsking(),
    focused = document.activeElement?.id;
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  $("lead").textContent = t("lead");
  $("languages").innerHTML =
    Object.keys(TEXTS)
      .map(
        (name) =>
          `<button id="language-${name}" lang="${name}" data-language="${name}" aria-pressed="${name === state.language}">${TEXTS[name].language}</button>`,
      )
      .join("") + ` <button id="theme" data-do="theme">${t(isDark() ? "light" : "dark")}</button>`;
  $("phases").innerHTML = PHASES.map(
    (phase) =>
      `<button id="phase-${phase}" data-phase="${phase}" ${phase === step.phase ? 'aria-current="step"' : ""}>${t(`phase_${phase}`)}</button>`,
  ).join("");
  $("phases").setAttribute("aria-label", t("phases"));
  $("player").setAttribute("aria-label", t("steps"));
  $("player").innerHTML =
    `<button id="first" data-do="first" aria-label="${t("first")}">«</button> <button id="back" data-do="back">${t("back")}</button>
    <button id="play" data-do="play">${t(state.playing ? "pause" : "play")}</button> <button id="next" data-do="next" class="main">${t("next")}</button>
    <span>${t("step_of", { k: state.step + 1, n: STEPS.length })}</span> <label><input id="ask" type="checkbox" data-do="ask"${state.ask ? " checked" : ""}> ${t("ask")}</label>`;
  const shown =
    SAMPLES < DATA.samples ? `<span class="dim">${t("samples_shown", { m: SAMPLES, n: DATA.samples })}</span>` : "";
  $("samples").innerHTML =
    `<button id="previous" data-do="previous" aria-label="${t("previous_sample")}"${SAMPLES > 1 ? "" : " disabled"}>◀</button> <span>${t("sample_of", { k: state.sample + 1, m: SAMPLES })}</span>
    <button id="following" data-do="following" aria-label="${t("next_sample")}"${SAMPLES > 1 ? "" : " disabled"}>▶</button> ${shown}
    ${numbers().isChanged ? `<span class="changed">${t("changed")}</span> <button id="reset" data-do="reset">${t("reset")}</button>` : ""}`;
  $("diagram").innerHTML = diagram($("diagram").clientWidth);
  $("diagram").insertAdjacentHTML("beforeend", `<p class="dim">${t("legend")}</p>`);
  const { selected } = state,
    unit = unitOfStep(step);
  const card = asking
    ? asked()
    : selected?.unit
      ? unitCard(selected.unit.l, selected.unit.i)
      : selected?.parameter
        ? parameterCard(selected.parameter)
        : verdict() + EXPLANATIONS[step.phase](unit);
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

const isDark = () =>
  (document.documentElement.dataset.theme ??
    (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

const ACTIONS = {
  first: () => go(0),
  back: () => go(state.step - 1),
  next: () => {
    stop();
    go(state.step + 1);
  },
  play: () => {
    if (state.playing) stop();
    else {
      if (state.step === STEPS.length - 1) state.step = 0;
      state.playing = setInterval(advance, 2500);
    }
    state.selected = null;
    render();
  },
  ask: () => {
    state.ask = !state.ask;
    render();
  },
  previous: () => {
    showSample((state.sample + SAMPLES - 1) % SAMPLES);
  },
  following: () => {
    showSample((state.sample + 1) % SAMPLES);
  },
  reset: () => {
    state.edited = copied(original);
    state.version++;
    render();
  },
  theme: () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    render();
  },
  descend: () => {
    const { gradient } = batch(),
      { theta, eta } = state.edited;
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
  const target = event.target.closest(
    "[data-do],[data-phase],[data-unit],[data-parameter],[data-sample],[data-language],[data-answer],[data-zero]",
  );
  if (!target) return;
  const { data = target.dataset } = {};
  if (data.do) {
    if (target.type !== "checkbox") ACTIONS[data.do]();
  } else if (data.phase) {
    stop();
    go(STEPS.findIndex((step) => step.phase === data.phase));
  } else if (data.language) {
    state.language = data.language;
    render();
  } else if (data.answer !== undefined) {
    state.answers[state.step] = data.answer;
    render();
  } else if (data.zero) {
    const [what, key] = data.zero.split(",");
    change(what, Number(key), 0);
    render();
  } else if (data.sample) showSample(Number(data.sample));
  else if (data.parameter) {
    stop();
    state.selected = { parameter: (state.shown = PARAMETERS[data.parameter]) };
    render();
  } else selectUnit(...data.unit.split(",").map(Number));
});

function selectUnit(l, i) {
  stop();
  state.chosen[l] = i;
  state.selected = { unit: { l, i } };
  render();
}

document.addEventListener("change", ({ target }) => {
  const { edit: edited, choose, shown, do: action } = target.dataset;
  if (edited) {
    const [what, key] = edited.split(",");
    change(what, Number(key), target.value === "" ? NaN : Number(target.value));
    render();
  } else if (choose !== undefined) {
    state.chosen[choose] = Number(target.value);
    if (state.selected) state.selected = { unit: { l: Number(choose), i: Number(target.value) } };
    render();
  } else if (shown !== undefined) {
    state.shown = PARAMETERS[target.value];
    render();
  } else if (action) ACTIONS[action]();
});

document.addEventListener("keydown", (event) => {
  const isControl = event.target.closest("input,select,button,summary,a"),
    isUnit = event.target.closest?.("[data-unit][tabindex]");
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input,select")) return;
  if (event.key === "ArrowRight") ACTIONS.next();
  else if (event.key === "ArrowLeft") {
    stop();
    ACTIONS.back();
  } else if ((event.key === "Enter" || event.key === " ") && isUnit)
    selectUnit(...isUnit.dataset.unit.split(",").map(Number));
  else if (event.key === " " && !isControl) ACTIONS.play();
  else return;
  event.preventDefault();
});

let width = 0;
new ResizeObserver(() => {
  if ($("diagram").clientWidth !== width) {
    width = $("diagram").clientWidth;
    render();
  }
}).observe($("diagram"));
const AGREEMENT = disagreement();
render();
