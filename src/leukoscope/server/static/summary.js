// The numbers of a case: share of blasts with its interval, how much is read, filters with counts.

import { element, find } from "./element.js";
import { between, count, percent, titled, whole } from "./words.js";

export function showSummary(summary, words) {
  const { blast_share: share, cells, read } = summary;
  const disease = words.positive ? words.title(words.positive) : "disease";
  find("share-title").textContent = `${titled(disease)} share`;
  const known = share && share.value !== null && share.value !== undefined;
  find("share-value").textContent = known ? percent(share.value) : "–";
  drawInterval(find("share-bar"), known ? share : null, disease);
  find("share-words").textContent = shareWords(share, { cells, read });
  find("read-bar").max = cells || 1;
  find("read-bar").value = read;
  find("read-words").textContent = `${whole(read)} of ${whole(cells)} read`;
}

function shareWords(share, { cells }) {
  if (!cells) return "No cells yet.";
  if (!share || share.value === null || share.value === undefined) return share?.how ?? "Not known for these cells.";
  const range = share.low === null || share.low === undefined ? "" : `95 % interval ${between(share.low, share.high)}. `;
  return `${range}${share.how ?? ""}`;
}

export function drawInterval(node, share, what) {
  const [range, dot] = node.children;
  node.classList.toggle("unknown", !share);
  if (!share) return node.setAttribute("aria-label", `${what} share is not known yet`);
  const { value, low, high } = share;
  range.style.left = `${100 * (low ?? value)}%`;
  range.style.right = `${100 - 100 * (high ?? value)}%`;
  dot.style.left = `${100 * value}%`;
  return node.setAttribute("aria-label", `${what} share ${percent(value)}, 95 % interval ${between(low ?? value, high ?? value)}`);
}

/** The filters with their counts; pressing one calls `pick` with its name. */
export function showFilters(node, { counts, chosen, words, pick }) {
  const names = [
    ["every", "All cells", "every", counts.every],
    ["unread", "Not yet read", "unread", counts.unread],
    ["unsure", "Unsure", "unsure", counts.unsure],
    ...[...words.classes].reverse().map((name) => [`class:${name}`, titled(words.title(name)), words.hue(name), counts.classes?.[name] ?? 0]),
    ["refused", "Refused", "refused", counts.refused],
    ...(counts.not_a_cell ? [["not_a_cell", "Not a cell", "refused", counts.not_a_cell]] : []),
  ];
  if (node.children.length !== names.length) node.replaceChildren(...names.map(([name]) => filterButton(name, pick)));
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
