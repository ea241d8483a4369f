// How far the readers of a laboratory agree, over all its cases.

import { get } from "./api.js";
import { element, find } from "./element.js";
import { complain, enter } from "./frame.js";
import { count, fixed, percent, whole } from "./words.js";

await enter();
find("since").addEventListener("change", show);
await show();

async function show() {
  try {
    const { cases, all, pairs } = await get(`/agreement?${new URLSearchParams({ since: find("since").value })}`);
    find("agreement-words").textContent = cases ? `${count(cases, "case")} whose readers have finished.` : "No case has been read by two or three people to the end yet. Ask for a second reader when you make a case.";
    find("agreement-tables").hidden = !cases;
    find("all-rows").replaceChildren(...all.map((each) => row(`${each.readers} readers`, each)));
    find("pair-rows").replaceChildren(...pairs.map((each) => row(each.readers.join(" and "), each)));
  } catch (error) {
    complain(error);
  }
}

function row(name, { cases, subjects, cells, percent: agreed, kappa, statistic, unit }) {
  const defined = kappa.value === null ? "not defined" : fixed(kappa.value);
  const numbers = [whole(cases), whole(subjects), whole(cells), percent(agreed.value), limits(agreed, (each) => percent(each)), `${defined}`, limits(kappa, fixed)];
  return element("tr", {}, element("th", { scope: "row" }, name), ...numbers.map((text) => element("td", { class: "n" }, text)), element("td", { class: "soft" }, `${statistic}, over ${unit}`));
}

function limits({ low, high }, words) {
  return low === null || high === null ? "–" : `${words(low)} to ${words(high)}`;
}
