// The numbers of a case: share of blasts with its interval, how much is read, filters with counts.

import { element, find } from "./element.js";
import { between, count, percent, titled, when, whole } from "./words.js";

export function showSummary(summary, words) {
  const { blast_share: share, cells, read, unsettled } = summary;
  const disease = words.positive ? words.title(words.positive) : "disease";
  find("share-title").textContent = words.types.length ? `${titled(disease)} share of lymphoid cells` : `${titled(disease)} share`;
  const known = isKnown(share);
  find("share-value").textContent = known ? percent(share.value) : NOT_KNOWN;
  find("share-value").classList.toggle("not-known", !known);
  drawInterval(find("share-bar"), share, disease);
  find("share-words").textContent = shareWords(share, { cells, read });
  find("read-bar").max = cells || 1;
  find("read-bar").value = read;
  find("read-words").textContent = `${whole(read)} of ${whole(cells)} read${unsettled ? `; ${whole(unsettled)} not settled` : ""}`;
}

export const NOT_KNOWN = "not known yet";
/** Whether the server gives a share: none while images are analysed or people read blind, or where too little is known. */
export const isKnown = (share) => Boolean(share) && share.value !== null && share.value !== undefined;

/** "95 % interval 18 to 100 %", empty where there is none. */
export const rangeWords = (share) => (Number.isFinite(share?.low) ? `95 % interval ${between(share.low, share.high)}` : "");

function shareWords(share, { cells }) {
  if (!cells) return "No cells yet.";
  return [rangeWords(share), share?.how ?? ""].filter(Boolean).join(". ");
}

/** An interval as a bar, with a dot where the share is known; empty where there is no interval either. */
export function drawInterval(node, share, what) {
  const [range, dot] = node.children;
  const known = isKnown(share);
  const low = share?.low ?? share?.value;
  const high = share?.high ?? share?.value;
  const some = Number.isFinite(low);
  node.classList.toggle("unknown", !some);
  dot.hidden = !known;
  const said = known ? percent(share.value) : `is ${NOT_KNOWN}`;
  node.setAttribute("aria-label", [`${what} share ${said}`, some ? `95 % interval ${between(low, high)}` : ""].filter(Boolean).join(", "));
  if (some) range.style.left = `${100 * low}%`;
  if (some) range.style.right = `${100 - 100 * high}%`;
  if (known) dot.style.left = `${100 * share.value}%`;
}

/** The differential: the model's count, and the readers'. */
export function showDifferential(counted, words) {
  find("differential").hidden = !counted;
  if (!counted) return;
  const { model, readers } = counted;
  find("differential-words").textContent = `Model: ${model.said} Readers: ${whole(readers.white)} of ${whole(readers.goal)} read.`;
  find("differential-bar").max = readers.goal;
  find("differential-bar").value = Math.min(readers.white, readers.goal);
  const rows = model.rows.map((row, place) => differentialRow(row, readers.rows[place]));
  const sum = element("tr", { class: "sum" }, element("th", { scope: "row" }, "White cells"), ...figures({ cells: model.white, percent: model.rows[0]?.percent === null ? null : 100 }), ...figures({ cells: readers.white, percent: readers.rows[0]?.percent === null ? null : 100 }));
  const apart = Object.entries(model.apart).filter(([name, cells]) => cells || readers.apart[name]);
  const beside = apart.map(([name, cells]) => element("tr", { class: "apart" }, element("th", { scope: "row" }, titled(name)), ...figures({ cells, percent: null }), ...figures({ cells: readers.apart[name], percent: null })));
  find("differential-rows").replaceChildren(...rows, sum, ...beside);
  find("differential-more").textContent = [...per100(model, "Model"), ...per100(readers, "Readers"), model.how].filter(Boolean).join(" ");
}

function differentialRow(model, readers) {
  return element("tr", {}, element("th", { scope: "row" }, titled(model.name)), ...figures(model), ...figures(readers));
}

function figures({ cells, percent: share, low, high }) {
  const known = share !== null && share !== undefined;
  const range = known && low !== null && low !== undefined ? `95 % interval ${Math.round(low)} to ${Math.round(high)} %` : undefined;
  return [element("td", {}, whole(cells)), element("td", { title: range }, known ? `${Math.round(share)}\u00a0%` : "")];
}

function per100({ per_100: rates, blasts_of_lymphoid: blasts }, who) {
  const words = Object.values(rates).filter(({ cells }) => cells).map(({ name, percent: rate }) => `${rate.toFixed(1)} ${name}s`);
  const said = words.length ? [`${who}: ${words.join(", ")} per 100 white cells.`] : [];
  if (!blasts) return said;
  const share = blasts.percent === null ? NOT_KNOWN : `${Math.round(blasts.percent)}\u00a0%`;
  return [...said, `${who}: blasts among lymphoid cells ${share} (${Math.round(blasts.low)} to ${Math.round(blasts.high)}).`];
}

/** Red cells and platelets of the case's fields. */
export function showBloodCount(counted) {
  find("blood-count").hidden = !counted;
  if (counted) find("blood-count-words").replaceChildren(...counted.said.map((line) => element("p", {}, line)));
}

/** How the fields of the case were taken: scale, where it is from, stain step, and whether they were judged again. */
export function showTaken(fields) {
  find("taken-words").textContent = takenWords(fields ?? []);
}

function takenWords(fields) {
  if (!fields.length) return "";
  const ways = new Map();
  for (const field of fields) ways.set(takenWord(field), (ways.get(takenWord(field)) ?? 0) + 1);
  const said = [...ways].slice(0, 3).map(([way, times]) => `${count(times, "field")}: ${way}.`);
  const notes = new Map();
  for (const words of fields.flatMap((field) => field.notes ?? [])) notes.set(words, (notes.get(words) ?? 0) + 1);
  for (const [words, times] of [...notes].slice(0, 3)) said.push(`${count(times, "field")}: ${words.replace(/\.$/, "")}.`);
  const again = fields.filter((field) => field.again);
  if (!again.length) return said.join(" ");
  const changed = again.reduce((sum, { again: { changed: cells } }) => sum + cells, 0);
  const last = again.map(({ again: { time } }) => time).sort().at(-1);
  return `${said.join(" ")} ${count(again.length, "field was", "fields were")} judged again since more came (${when(last)}): ${count(changed, "cell")} changed; the readers’ answers stay.`;
}

/** One field in words, such as "0.083 µm per pixel from its red cells; stain by macenko, measured on 6 fields". */
export function takenWord({ um_per_px: scale, scale: source, stain }) {
  const from = { user: "as stated", file: "as stated" }[source] ?? (source ? `from ${source}` : "");
  const brought = stain ? `; stain brought to the training cells by ${titled(stain.method)}, measured on ${stain.fields > 1 ? `${whole(stain.fields)} fields` : "this field alone"}` : "";
  return `${scale?.toFixed(3) ?? "?"} µm per pixel ${from}${brought}`;
}

/** The filters with their counts; pressing one calls `pick` with its name. */
export function showFilters(node, { counts, chosen, words, pick }) {
  const types = words.types.filter((name) => counts.classes?.[name]);
  const names = [
    ["every", "All cells", "every", counts.every],
    ["unread", "Not yet read", "unread", counts.unread],
    ...(counts.disputed ? [["disputed", "In dispute", "unsure", counts.disputed]] : []),
    ["unsure", "Unsure", "unsure", counts.unsure],
    ...[...words.classes].reverse().map((name) => [`class:${name}`, titled(words.title(name)), words.hue(name), counts.classes?.[name] ?? 0]),
    ...types.map((name) => [`class:${name}`, titled(words.title(name)), words.hue(name), counts.classes[name]]),
    ["refused", "Refused", "refused", counts.refused],
    ...(counts.not_a_cell ? [["not_a_cell", "Not a cell", "refused", counts.not_a_cell]] : []),
  ];
  const there = names.map(([name]) => name).join("\n");
  if (node.dataset.names !== there) node.replaceChildren(...names.map(([name]) => filterButton(name, pick)));
  node.dataset.names = there;
  names.forEach(([name, title, hue, number], place) => fill(node.children[place], { title, hue, number, pressed: name === chosen }));
}

function filterButton(name, pick) {
  return element("button", { type: "button", class: "filter", "data-filter": name, onclick: () => pick(name) }, element("i", {}), element("span", {}), element("b", {}));
}

function fill(button, { title, hue, number, pressed }) {
  const [swatch, name, figure] = button.children;
  swatch.className = `hue-${hue}`;
  name.textContent = title;
  figure.textContent = whole(number ?? 0);
  button.setAttribute("aria-pressed", String(pressed));
  button.setAttribute("aria-label", `${title}: ${count(number ?? 0, "cell")}`);
}
