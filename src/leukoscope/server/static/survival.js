// The survival form: fields as the model describes them, an answer in words, and its curve.

import { get, send } from "./api.js";
import { drawn, element, find } from "./element.js";
import { blame, complain, enter } from "./frame.js";
import { between, percent, titled } from "./words.js";

const [WIDTH, HEIGHT] = [640, 340];
const EDGE = { left: 46, right: 14, top: 30, bottom: 40 };
let models = [];

const chosen = () => models[find("survival-model").selectedIndex];

async function arrive() {
  await enter();
  try {
    models = (await get("/survival/models")).models;
  } catch (error) {
    return complain(error);
  }
  find("survival-words").textContent = models.length ? "" : "No survival model is served. Fit one with leukoscope survival fit, and start leukoscope serve with it.";
  find("survival-words").hidden = Boolean(models.length);
  find("survival").hidden = !models.length;
  find("survival-model").replaceChildren(...models.map(({ name, title }) => element("option", { value: name }, title ?? name)));
  find("model-label").hidden = models.length < 2;
  find("survival-model").addEventListener("change", fill);
  find("survival-form").addEventListener("submit", ask);
  return models.length && fill();
}

function fill() {
  find("survival-fields").replaceChildren(...chosen().fields.map(field));
}

function field(facts) {
  const hint = facts.low === undefined || facts.low === null ? "" : `seen: ${short(facts.low)} to ${short(facts.high)}`;
  const input = facts.choices
    ? element("select", { name: facts.name, required: true }, element("option", { value: "" }, "Choose"), ...facts.choices.map((choice) => element("option", { value: choice }, choice)))
    : element("input", { name: facts.name, inputmode: "decimal", autocomplete: "off", required: true });
  return element("label", {}, titled(facts.title ?? facts.name), input, hint ? element("small", { class: "hint" }, hint) : null);
}

const short = (number) => String(Number(Number(number).toPrecision(3)));

async function ask(event) {
  event.preventDefault();
  const patient = Object.fromEntries([...new FormData(find("survival-form"))].filter(([name]) => name));
  try {
    blame(find("survival-form"), null);
    show(await send("POST", `/survival/models/${encodeURIComponent(chosen().name)}/predict`, { patient }));
  } catch (error) {
    if (error.status === 401) complain(error);
    else blame(find("survival-form"), error);
  }
}

function show(answer) {
  const rows = answer.answers.map((each) =>
    element("li", {}, element("b", {}, each.survival ? percent(each.survival.value) : "–"), element("div", {}, element("strong", {}, `${chosen().still} after ${each.words}`), each.survival && each.survival.low !== null ? scale(each.survival) : null, element("p", {}, each.text))),
  );
  find("answer-body").replaceChildren(
    element("ul", { class: "horizons" }, ...rows),
    element("p", { class: "median" }, answer.median_text),
    ...(answer.curves.survival ? [picture(answer)] : []),
    ...answer.warnings.map((text) => element("p", { class: "caution" }, text)),
    element("p", { class: "soft" }, answer.method ? `${answer.method}.` : ""),
    element("p", { class: "stamp" }, element("b", {}, answer.notice ?? "Research use, not a diagnosis")),
  );
}

function scale({ value, low, high }) {
  const node = element("div", { class: "interval", role: "img", "aria-label": `${percent(value)}, 95 % interval ${between(low, high)}` }, element("i", {}), element("b", {}));
  node.firstChild.style.left = `${100 * low}%`;
  node.firstChild.style.right = `${100 - 100 * high}%`;
  node.lastChild.style.left = `${100 * value}%`;
  return node;
}

/** How many are still alive, or without the event, as a step curve in its 95 % band, up to the end of follow-up. */
function picture({ curves, unit, last, answers }) {
  const curve = curves.survival;
  const end = last || Math.max(...curve.times);
  const x = (time) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * Math.min(time, end)) / end;
  const y = (share) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - share);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img", "aria-label": `Patients ${chosen().still}, of 100, over ${unit}, with the 95 % band` });
  svg.append(...grid({ x, y, end, unit }), drawn("path", { class: "band", d: band(curve, x, y, end) }), drawn("path", { class: "line", d: steps(curve.times, curve.value, x, y, end) }));
  for (const { time, survival } of answers) if (survival && time <= end) svg.append(drawn("circle", { cx: x(time), cy: y(survival.value), r: 5 }));
  return svg;
}

function grid({ x, y, end, unit }) {
  const shares = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    drawn("line", { x1: x(0), x2: x(end), y1: y(share), y2: y(share) }),
    drawn("text", { x: EDGE.left - 8, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}`),
  ]);
  const step = niceStep(end);
  const times = [];
  for (let time = 0; time <= end * 1.001; time += step) times.push(drawn("text", { x: x(time), y: HEIGHT - EDGE.bottom + 18, "text-anchor": "middle" }, short(time)));
  return [...shares, ...times, drawn("text", { x: x(0), y: 13 }, `${chosen().still}, of 100`), drawn("text", { x: x(end), y: HEIGHT - 4, "text-anchor": "end" }, unit)];
}

function niceStep(end) {
  const rough = end / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 3, 5, 6, 10].find((factor) => factor * power >= rough);
}

function steps(times, values, x, y, end) {
  let path = `M${x(0)} ${y(1)}`;
  times.forEach((time, place) => (path += `H${x(time).toFixed(1)}V${y(values[place]).toFixed(1)}`));
  return `${path}H${x(end)}`;
}

function band({ times, low, high }, x, y, end) {
  const known = times.map((_, place) => place).filter((place) => Number.isFinite(low[place]) && Number.isFinite(high[place]) && low[place] !== null);
  if (!known.length) return "";
  let path = `M${x(0)} ${y(1)}`;
  for (const place of known) path += `H${x(times[place]).toFixed(1)}V${y(high[place]).toFixed(1)}`;
  path += `H${x(end)}V${y(low[known.at(-1)]).toFixed(1)}`;
  for (const place of known.slice(0, -1).reverse()) path += `H${x(times[place + 1]).toFixed(1)}V${y(low[place]).toFixed(1)}`;
  return `${path}H${x(times[known[0]]).toFixed(1)}V${y(1)}Z`;
}

arrive();
