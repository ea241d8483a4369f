// What to read next, and models that are fitted to what was signed off: two figures side by side, and a choice.

import { get, outdated, send } from "./api.js";
import { element, find } from "./element.js";
import { complain, confirmed, enter, note } from "./frame.js";
import { count, titled, when, whole } from "./words.js";

const POLL = 1500; // ms
const FIGURES = [
  ["auroc", "AUROC", "a random blast is ranked above a random normal cell; 1 is perfect, 0.5 chance"],
  ["balanced_accuracy", "Balanced accuracy", "mean of sensitivity and specificity"],
  ["sensitivity", "Sensitivity", "of the blasts, how many are called so"],
  ["specificity", "Specificity", "of the normal cells, how many are called so"],
  ["brier", "Brier score", "squared error of the probabilities; 0 is perfect"],
];

let learning = null;
let polls = 0; // only the latest one counts

await enter();
find("fit-button").addEventListener("click", fit); // before anything is shown: a click while lists load counts too
try {
  await Promise.all([showNext(), refresh()]);
} catch (error) {
  complain(error);
}

// --- what to read next -----------------------------------------------------------------------------------------------

async function showNext() {
  const { cases, stop, newest } = await get("/learning/worklist");
  find("stop-words").textContent = stop.words;
  find("newest-words").textContent = newest;
  find("newest-words").hidden = !newest;
  find("next-cases").replaceChildren(...cases.map(row));
  if (!cases.length) find("next-cases").append(element("li", { class: "nothing" }, "No open case holds cells from which the model could learn more."));
}

function row({ id, name, subject, unread, unsettled, why }) {
  return element(
    "li",
    {},
    element(
      "a",
      { class: "next-row", href: `/cases/${id}?order=teaching` },
      element("span", { class: "case-row-name" }, element("b", {}, name), subject ? element("span", { class: "soft" }, subject) : null),
      element("span", { class: "soft" }, why),
      element("span", { class: "chip" }, [unread ? `${whole(unread)} to read` : "", unsettled ? `${whole(unsettled)} to settle` : ""].filter(Boolean).join(", ")),
    ),
  );
}

// --- fitting ---------------------------------------------------------------------------------------------------------

async function refresh() {
  learning = await get("/learning");
  draw();
}

function draw() {
  const { cells, adaptations, may } = learning;
  const running = adaptations.find(({ state }) => state === "queued" || state === "running");
  find("cells-words").textContent = cells.cells ? `${count(cells.cells, "signed-off cell")} of ${count(cells.subjects, "subject")} in ${count(cells.cases, "case")}: ${perClass(cells.classes)}.` : "No signed-off cells yet.";
  find("missing-words").textContent = cells.missing;
  find("missing-words").hidden = !cells.missing || Boolean(running);
  find("fit-row").hidden = !may.fit || Boolean(running);
  find("fit-button").disabled = Boolean(cells.missing);
  find("fit-hint").hidden = Boolean(cells.missing);
  find("fit-other").hidden = may.fit;
  showRunning(running);
  const done = adaptations.filter(({ state }) => state === "done" || state === "failed");
  find("models").replaceChildren(...done.map(card), ownCard());
}

function perClass(classes) {
  return Object.entries(classes).map(([name, cells]) => `${whole(cells)} ${learning.titles[name] ?? name}`).join(", ");
}

function showRunning(running) {
  find("running").hidden = !running;
  if (!running) return;
  const { id, state, cells, looked, by, created } = running;
  const begun = `Model ${id}, begun by ${by} ${when(created)}`;
  find("running-words").textContent = state === "queued" ? `${begun}, is waiting.` : looked < cells ? `${begun}, cells read by the model: ${whole(looked)} of ${whole(cells)}.` : `${begun}, is being fitted and tested.`;
  find("running-bar").max = cells || 1;
  find("running-bar").value = looked;
  poll();
}

/** Ask again in a moment how far the fitting is. A request that fails does not end this, unless one is signed out. */
function poll() {
  const turn = ++polls;
  setTimeout(async () => {
    if (turn !== polls) return;
    try {
      await refresh();
    } catch (error) {
      complain(error);
      if (error.status !== 401) poll();
    }
  }, POLL);
}

async function fit() {
  find("fit-button").disabled = true;
  try {
    learning = await send("POST", "/learning/models");
    if (!learning.new) note("A model is being fitted already; nothing else was begun.");
    draw();
  } catch (error) {
    complain(error);
    await refresh().catch(complain);
  }
}

// --- models ----------------------------------------------------------------------------------------------------------

function ownCard() {
  const { own, present } = learning;
  const here = own.hash === present;
  return element(
    "li",
    { class: "card stack" },
    head({ title: own.name, soft: "the model that the room was opened with", here }),
    element("p", { class: "soft" }, judgedWords(own.cases)),
    print(own.hash),
    here ? null : chooser({ hash: own.hash, title: own.name, yes: "Go back to this model", words: "New images are answered by the room’s own model again." }),
  );
}

function card(model) {
  const { id, state, error, result, by, created, finished, hash, says, cases } = model;
  const title = `Model ${id}`;
  const soft = `begun by ${by} ${when(created)}`;
  if (state === "failed") return element("li", { class: "card stack" }, head({ title, soft, here: false }), element("p", { class: "wrong" }, `Not fitted (${when(finished)}). ${error}`));
  const { learned, unusable } = result;
  const from = `Learned from ${count(learned.cells, "cell")} of ${count(learned.subjects, "subject")} in ${count(learned.cases, "case")}: ${perClass(learned.classes)}.${unusable ? ` ${count(unusable, "picture")} could not be used.` : ""}`;
  const here = hash === learning.present;
  return element(
    "li",
    { class: "card stack" },
    head({ title, soft, here }),
    element("p", {}, verdict(result)),
    table(model),
    element("p", { class: "soft" }, `${from} ${judgedWords(cases)}`),
    says ? element("p", { class: "soft" }, says) : null,
    print(hash),
    here ? null : chooser({ hash, title, yes: "Let this model answer", words: `${figuresInWords(result)} New images are judged by it from now on.` }),
  );
}

function head({ title, soft, here }) {
  return element("div", { class: "title-row" }, element("h3", {}, title, " ", element("span", { class: "soft" }, soft)), here ? element("span", { class: "chip good" }, "answers now") : null);
}

function judgedWords(cases) {
  return cases ? `It gave the current answers in ${count(cases, "case")}.` : "It has answered no case yet.";
}

function print(hash) {
  return element("p", { class: "hint" }, "Fingerprint ", element("code", {}, hash.slice(0, 16)));
}

function verdict({ verdict: words, cells, subjects }) {
  const said = { "The adapted bundle is better.": "It is better by more than chance", "The adapted bundle is worse.": "It is worse by more than chance" }[words] ?? "It is not shown to be better";
  return `${said}, by its squared error on ${count(cells, "cell")} of ${count(subjects, "subject")} that neither model was trained on.`;
}

/** Both on the same cells. Rows are figures, so that the table fits a phone. */
function table({ id, result, compared_with: other }) {
  const named = other === learning.present ? "Answers now" : "Answered then";
  const rows = FIGURES.map(([key, name, means]) => element("tr", {}, element("th", { scope: "row", title: means }, name), ...["old", "new", "differences"].map((which) => element("td", { class: "n" }, ...figure((which === "differences" ? result.differences : result[which])[key], which === "differences")))));
  const header = element("thead", {}, element("tr", {}, ...["", named, "This model", "Difference"].map((text, place) => element(place ? "th" : "td", place ? { class: "n", scope: "col" } : {}, text))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Figures of model ${id}` }, element("table", {}, header, element("tbody", {}, ...rows)));
}

function figure({ value, low, high }, signed) {
  if (value === null) return ["–"];
  const text = (number) => `${signed && number > 0 ? "+" : ""}${number.toFixed(2)}`.replace("-", "−");
  return [element("b", {}, text(value)), low === null ? null : element("span", { class: "soft interval-words" }, ` ${text(low)} to ${text(high)}`)];
}

function figuresInWords({ old, new: fresh }) {
  const of = ({ value, low, high }) => (value === null ? "not known" : `${value.toFixed(2)}${low === null ? "" : ` (${low.toFixed(2)} to ${high.toFixed(2)})`}`);
  return `AUROC of the model it was compared with: ${of(old.auroc)}; of this one: ${of(fresh.auroc)}, on the same cells. Squared error: ${of(old.brier)}; of this one: ${of(fresh.brier)}.`;
}

function chooser({ hash, title, yes, words }) {
  if (!learning.may.choose) return null;
  return element("div", { class: "row" }, element("button", { type: "button", "aria-label": `${yes}: ${title}`, onclick: () => choose({ hash, title, yes, words }) }, yes));
}

async function choose({ hash, title, yes, words }) {
  const sure = await confirmed({ title: `${yes}: ${titled(title)}?`, words: `${words} Cases that were judged keep their answers until somebody asks for a new analysis. You can go back at any time.`, yes });
  if (!sure) return;
  try {
    learning = await send("PUT", "/learning/model", { model: hash }, { seen: learning.etag });
    draw();
    note(`${titled(title)} answers from now on.`);
  } catch (error) {
    complain(error);
    if (outdated(error)) await refresh().catch(complain);
  }
}
