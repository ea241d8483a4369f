// A case: images come in, cells appear, somebody reads them. This module joins the parts; each part knows only itself.

import { get } from "./api.js";
import { CellList } from "./cells.js";
import { Closing } from "./closing.js";
import { debounced, element, find } from "./element.js";
import { Field } from "./field.js";
import { complain, enter, keyIsTaken, note, say, singleKeys } from "./frame.js";
import { Grid } from "./grid.js";
import { Hospital } from "./hospital.js";
import { Judged } from "./judged.js";
import { Reader } from "./reader.js";
import { Readers } from "./readers.js";
import { Reviews } from "./reviews.js";
import { showBloodCount, showDifferential, showFilters, showSummary, showTaken } from "./summary.js";
import { Magnifier } from "./pictures.js";
import { Selection } from "./selection.js";
import { Slides } from "./slides.js";
import { receive, upload } from "./upload.js";
import { count, saidOf, Vocabulary, whole } from "./words.js";

const caseId = location.pathname.split("/")[2];
const NARROW = matchMedia("(max-width: 47.99rem)");
const POLL = 700; // ms
const MOST_AT_ONCE = 1000; // cells of which one request may say something
const FRESH = 1500; // ms between two requests for new cells while the analysis runs

// Listens before it knows who is here: a file that is dropped early must not be lost, or opened by the browser.
let open;
const opened = new Promise((resolve) => (open = resolve));
receive({
  zone: document.body,
  buttons: { files: find("choose-files"), folder: find("choose-folder") },
  inputs: { files: find("files"), folder: find("folder") },
  take: (files) => opened.then(() => take(files)),
  over: (there) => (find("veil").hidden = !there),
});

const account = await enter();
const words = new Vocabulary(await servedModel());
const list = new CellList(caseId);
const magnifier = new Magnifier();
const grid = new Grid(find("grid"), { list, words, magnifier });
const readers = new Readers({ caseId, account });
const reviews = new Reviews({ caseId, list, reader: account.name, round: () => readers.round });
const closing = new Closing({ caseId, words });
new Hospital({ caseId, closing });
const judged = new Judged({ caseId, closing });
const frozen = () => closing.signed || closing.item?.may?.review === false || Boolean(readers.shut);
const mine = ({ answers = [] }) => answers.filter(({ reader, round }) => reader === account.name && round === readers.round).at(-1)?.label;
const reader = new Reader({ words, magnifier, frozen, mine });
const shut = () => (frozen() ? readers.shut || "This case is signed off. A reviewer can reopen it." : "");
const selection = new Selection({ grid, list, words, shut });
const field = new Field({ caseId, words, frozen });
const slides = new Slides({ caseId, open: (id) => field.open(id) });
let begun = false; // somebody has chosen or read a cell: from now on nothing moves under their hands
let watching = false;
let looked = 0;

async function servedModel() {
  try {
    const { models, served } = await get("/models");
    return models.find(({ hash }) => hash === served) ?? models[0];
  } catch (error) {
    complain(error);
    return undefined;
  }
}

// --- what is shown ------------------------------------------------------------------------------------------------

async function refreshCase() {
  const item = await get(`/cases/${caseId}`);
  closing.show(item);
  readers.show(item);
  showWhatIsHidden(item.reading);
  const empty = !item.images;
  if (empty) openAdd(true);
  slides.refresh();
  find("desk").hidden = empty;
  document.body.classList.toggle("empty-case", empty);
  return item;
}

async function refreshNumbers() {
  try {
    closing.summary = await get(`/cases/${caseId}/summary`);
    showSummary(closing.summary, words);
    showDifferential(closing.summary.differential, words);
    showBloodCount(closing.summary.blood_count);
    showTaken(closing.summary.fields);
    judged.show(closing.summary);
    await refreshReaders();
    await list.refreshCounts();
  } catch (error) {
    complain(error);
  }
}

/** Whoever reads blind to the model gets neither its heat maps nor its order. */
function showWhatIsHidden({ model_shown: shown }) {
  find("heat-button").disabled = !shown;
  for (const option of find("order").options) option.disabled = !shown && option.value !== "number";
  if (!shown) find("order").value = "number";
  else if (find("order").value !== list.order) find("order").value = list.order;
}

/** How the case is read has changed, here or by somebody else: what is shown may be other than before. */
async function renew() {
  const phase = readers.reading.phase;
  const item = await refreshCase();
  if (item.reading.phase === phase && !item.images) return;
  await ask(list.filter === "disputed" && !item.reading.unsettled ? { filter: "every" } : {});
  await refreshNumbers();
  showChosen();
}

const refreshNumbersSoon = debounced(() => reviews.waiting || refreshNumbers(), 250);

/** After each answer: who has read how much, and what may be done now. */
async function refreshReaders() {
  const item = await get(`/cases/${caseId}`);
  const changed = item.reading.phase !== readers.reading.phase;
  closing.show(item);
  readers.show(item);
  if (changed) await renew();
}

function showCounts() {
  if (!list.counts) return;
  showFilters(find("filters"), { counts: list.counts, chosen: list.filter, words, pick: (filter) => ask({ filter }) });
  describeWall();
}

function describeWall() {
  const empty = !list.total;
  find("wall-words").textContent = empty ? "" : shownWords();
  find("empty").hidden = !empty;
  find("grid").hidden = empty;
  if (empty) find("empty").textContent = watching ? "The first cells will appear here in a moment." : nothingWords();
}

function shownWords() {
  const order = { priority: "most urgent first", probability: "surest first", number: "as they came", type: "by what they are", likeness: list.like ? "the most similar to one cell first, class by class" : "similar cells next to each other, class by class", teaching: "the most useful to the model first" }[list.order];
  return `${count(list.total, "cell")}, ${order}`;
}

function nothingWords() {
  if (!list.counts?.every && slides.some) return "Open the slide and draw the area in which cells are to be found.";
  const read = readers.reading?.unsettled ? "Every cell has been read. Settle those on which the readers differ." : "Every cell has been read. Sign the case off when you are content.";
  const none = { every: "No cells were found in these images.", unread: read, unsure: "Nothing is unsure.", refused: "Nothing was refused." };
  return none[list.filter] ?? "No cell is called this.";
}

async function ask(wanted) {
  try {
    await list.load(wanted);
    find("fresh").hidden = true;
  } catch (error) {
    complain(error);
  }
}

// --- choosing and reading -----------------------------------------------------------------------------------------

function showChosen({ open = false } = {}) {
  const cell = list.at(grid.chosen);
  reader.show(cell);
  if (cell && open) begun = true;
  if (cell && open && NARROW.matches) openSheet(true);
}

function step(by) {
  begun = true;
  selection.clear();
  grid.choose((grid.chosen < 0 ? 0 : grid.chosen) + by);
}

/** The cell that is read: in an open field the one that is chosen there, which a filter may hide from the wall. */
const cellRead = () => (field.dialog.open ? field.cellNow() : list.at(grid.chosen));

function label(name) {
  if (selection.size && !field.dialog.open) return void labelAll(name);
  const cell = cellRead();
  if (!cell) return;
  if (frozen()) return void note(shut());
  begun = true;
  reviews.say(cell, name);
  say(`Cell ${cell.number}: ${words.title(name)}.`);
  if (field.dialog.open) field.afterReading(cell.id);
  else if (grid.chosen + 1 < list.total) step(1);
  else showChosen();
}

/** Give all selected cells the same label, in one request that one undo takes back. */
function labelAll(name) {
  const { cells } = selection;
  if (frozen()) return void note(shut());
  if (cells.length > MOST_AT_ONCE) return void note(`At most ${whole(MOST_AT_ONCE)} cells can be labelled at once. Select fewer.`, { wrong: true });
  const last = list.placeOf(cells.at(-1).id);
  selection.clear();
  if (cells.length === 1) reviews.say(cells[0], name);
  else reviews.sayAll(cells, name);
  say(`${count(cells.length, "cell")}: ${words.title(name)}.`);
  grid.choose(Math.min(list.total - 1, last + 1));
}

function agree() {
  const cell = cellRead();
  if (!cell) return;
  if (selection.size && !field.dialog.open) return void say(`Say with the key of a class what the ${count(selection.size, "selected cell is", "selected cells are")}.`);
  if (words.labels.includes(saidOf(cell))) label(saidOf(cell));
  else say(cell.decision === "hidden" ? "You read blind to the model. Say what it is with a number key." : "The model does not decide here. Say what it is with a number key.");
}

/** The cell was changed while somebody looked at it: show it as it is now, with the answer that was not saved. */
function outdatedReview({ cell, label: name, cells = [], all = [] }) {
  if (cells.length) return void note(`Somebody has changed ${cells.length === 1 ? `cell ${cells[0].number}` : count(cells.length, "cell")} meanwhile, so “${words.title(name)}” was saved for none of the ${whole(all.length)} cells. Look again, then select them again.`, { wrong: true });
  const said = words.title(name);
  reader.forget(cell.image);
  if (cell.removed) return void note(`Cell ${cell.number} was removed meanwhile, so “${said}” was not saved.`, { wrong: true });
  grid.choose(list.placeOf(cell.id));
  showChosen();
  reader.showChange({
    words: `Somebody has changed the outline of cell ${cell.number} while you looked at it. “${said}” was not saved.`,
    yes: `Label it ${said} as it is now`,
    keep: () => label(name),
  });
  say(`Cell ${cell.number} was changed meanwhile. ${said} was not saved.`);
}

/** An answer could not be saved: say which, and why; a case that somebody has deleted takes no more. */
async function unsaved(error) {
  const { cell, cells, label: name } = error.unsaved ?? {};
  if (cells) error.message = `“${words.title(name)}” was not saved for ${count(cells.length, "cell")}. ${error.message}`;
  if (error.status === 404 && cell) return void (await lost(cell, name));
  if (cell) error.message = `“${words.title(name)}” for cell ${cell.number} was not saved. ${error.message}`;
  complain(error);
  if (error.status === 409) await renew().catch(complain);
}

async function lost(cell, name) {
  try {
    await renew();
    note(`Cell ${cell.number} is no longer here, so “${words.title(name)}” was not saved.`, { wrong: true });
  } catch (error) {
    if (error.status !== 404) return void complain(error);
    notHere();
    find("desk").hidden = true;
    note(`Somebody has deleted this case. “${words.title(name)}” for cell ${cell.number} was not saved; the answers given before are kept in the audit log.`, { wrong: true });
  }
}

async function undo() {
  if (frozen()) return;
  const cells = await reviews.undo();
  if (!cells?.length) return void say("There is nothing to undo.");
  if (field.dialog.open) field.refresh();
  const back = cells.filter(({ removed }) => !removed);
  const cell = back[0] ?? cells[0];
  const there = back.length === cells.length && back.every(({ id }) => list.placeOf(id) >= 0);
  if (there) grid.choose(list.placeOf(cell.id));
  else await changed("is back", cell);
  say(cells.length > 1 ? `${count(cells.length, "cell")}: what you did last is taken back.` : `Cell ${cell.number}: your last reading is taken back.`);
}

/** On a phone the chosen cell covers the page; Back closes it. */
function openSheet(open) {
  if (document.body.classList.contains("sheet-open") === open) return;
  document.body.classList.toggle("sheet-open", open);
  for (const part of document.querySelectorAll(".bar, .foot, .case-head, .rail, .wall, .skip, .add, .work, .refusals")) part.inert = open;
  if (open) {
    history.pushState({ sheet: true }, "");
    find("reader-close").focus();
  } else {
    grid.node.focus({ preventScroll: true });
    grid.reveal(Math.max(0, grid.chosen));
  }
}

function toggleHeat() {
  const on = !grid.heat;
  find("heat-button").setAttribute("aria-pressed", String(on));
  grid.setHeat(on);
  reader.stage.setHeat(on);
  find("heat-key").hidden = !on;
  say(`Heat maps ${on ? "on" : "off"}`);
}

function toggleSeen() {
  const on = !reader.stage.seen;
  reader.stage.setSeen(on);
  say(on ? "The cell as the model sees it" : "The cell as it lies in the smear");
}

/** Cells of each class by their likeness, to the chosen cell or to the middle of the class. */
async function sortBy(order, like = null) {
  const ready = { likeness: compared, teaching: () => judged.place() }[order]; // worked out once: nothing moves under who reads
  if (ready && !(await ready())) return void (find("order").value = list.order);
  find("order").value = order;
  find("order-words").hidden = order !== "teaching";
  await ask({ order, like });
}

function sortByLikeness() {
  const cell = list.at(grid.chosen);
  if (!cell) return;
  if (find("likeness").disabled) return void note("You read blind to the model, which finds what is similar.");
  begun = true;
  sortBy("likeness", cell.id);
}

/** Let the server compare all cells, some at a time; returns whether it could. */
async function compared() {
  try {
    for (let before = -1; ; ) {
      const { known, cells } = await get(`/cases/${caseId}/likeness`);
      if (known >= cells || known === before) return true;
      before = known;
      find("wall-words").textContent = `Comparing cells: ${whole(known)} of ${whole(cells)}`;
    }
  } catch (error) {
    complain(error);
    return false;
  }
}

/** Outlines that were selected on the wall, shown in their field, to be made one cell. */
function merge() {
  const { cells } = selection;
  field.open(cells[0].image, cells[0].id, { merge: cells.map(({ id }) => id) });
}

function openField() {
  const cell = list.at(grid.chosen);
  if (cell?.box) field.open(cell.image, cell.id);
  else if (cell) note("This cell came as a crop, without a field around it.");
}

function readingKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const acts = { " ": agree, 0: () => label("unsure"), x: () => label("not_a_cell"), z: undo, h: toggleHeat, v: toggleSeen, f: openField, l: sortByLikeness };
  const act = words.keys.has(key) ? () => label(words.keys.get(key)) : acts[key];
  if (!act || (key === " " && event.target.closest("button, a, summary"))) return false;
  event.preventDefault();
  act();
  return true;
}

const movesNow = () => ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, PageUp: -grid.screenful, PageDown: grid.screenful, Home: -list.total, End: list.total });

/** Shift with a move selects all on the way, Ctrl with a move keeps what is selected; Ctrl with A, Space or Enter. */
function selectingKey(event) {
  const held = event.ctrlKey || event.metaKey;
  if (find("desk").hidden || event.altKey || event.target.closest("input, select, textarea, dialog, [role=toolbar], .menu") || document.querySelector("dialog[open]")) return false;
  const by = movesNow()[event.key];
  const target = Math.max(0, Math.min(list.total - 1, Math.max(0, grid.chosen) + (by ?? 0)));
  if (by !== undefined && event.shiftKey) {
    selection.extend(target, { adding: held });
    grid.choose(target);
  } else if (by !== undefined && event.ctrlKey) grid.choose(target);
  else if (held && event.key.toLowerCase() === "a") selection.all();
  else if (held && (event.key === " " || event.key === "Enter")) selection.toggle(grid.chosen);
  else if (event.key === "Escape" && (selection.size || selection.several)) selection.setSeveral(false);
  else return false;
  begun = true;
  event.preventDefault();
  return true;
}

function movingKey(event) {
  const moves = movesNow();
  if (!(event.key in moves) || event.target.closest("[role=toolbar], .menu, progress")) return false;
  event.preventDefault();
  step(document.body.classList.contains("sheet-open") ? Math.sign(moves[event.key]) : moves[event.key]);
  return true;
}

function onKey(event) {
  const undoing = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if (undoing && !event.target.closest("input, textarea")) return void (event.preventDefault(), undo());
  if (selectingKey(event)) return;
  if (keyIsTaken(event) || find("desk").hidden || movingKey(event)) return;
  if (event.key === "Escape" && document.body.classList.contains("sheet-open")) return void history.back();
  if (event.key === "Enter" && event.target === grid.node) return void (NARROW.matches ? showChosen({ open: true }) : openField());
  if (!singleKeys()) return;
  if (event.key === "+" || event.key === "-" || event.key === "=") return void zoom(grid.step + (event.key === "-" ? -1 : 1));
  readingKey(event);
}

function zoom(step) {
  grid.setStep(step);
  find("zoom").value = grid.step;
  localStorage.setItem("cell-size", grid.step);
}

// --- images coming in ---------------------------------------------------------------------------------------------

function openAdd(open) {
  find("add").hidden = !open;
  find("add-button").setAttribute("aria-expanded", String(open));
}

export async function take(files) {
  if (!files.length) return;
  if (frozen()) return void note("This case is signed off, so nothing can be added. A reviewer can reopen it.");
  const kind = document.querySelector("input[name=kind]:checked").value;
  const scale = find("scale").value.trim().replace(",", ".");
  try {
    const sending = upload(caseId, files, { kind, scale, onProgress: showSending });
    openAdd(false);
    watch();
    const state = await sending;
    showRefused(state.refused);
    await refreshCase();
    watch();
  } catch (error) {
    complain(error);
  }
  find("work").dataset.sending = "";
}

function showSending({ sent, total, part = 0, name = "" }) {
  find("work").hidden = false;
  find("work").dataset.sending = sent < total ? "yes" : "";
  const text = name ? `Sending ${name}: ${part < 1 ? `${Math.round(100 * part)} %` : "taking it in"}` : `Sending ${whole(sent)} of ${count(total, "file")}`;
  if (sent < total) showWork({ part: name ? part : sent / total, text });
  if (sent) watch();
}

function showWork({ part, text }) {
  find("work-bar").value = part;
  if (find("work-words").textContent !== text) find("work-words").textContent = text;
}

function showRefused(refused) {
  if (!refused?.length) return;
  const items = refused.map(({ name, error }) => element("li", {}, element("b", {}, name), " ", error));
  const box = find("refusals");
  box.querySelector("ul").append(...items);
  find("refusals-title").textContent = `${count(box.querySelectorAll("li").length, "file")} could not be used`;
  box.hidden = false;
}

/** Follow the analysis until it has finished. */
async function watch() {
  if (watching) return;
  watching = true;
  let shown = "";
  for (let failures = 0; failures < 5; ) {
    try {
      const progress = await get(`/cases/${caseId}/progress`);
      failures = 0;
      shown = await follow(progress, shown);
      if (progress.finished && find("work").dataset.sending !== "yes") break;
    } catch (error) {
      if (++failures === 5 || error.status === 401 || error.status === 404) complain(error);
      if (error.status === 401 || error.status === 404) break;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
  watching = false;
  await finish();
}

async function follow(progress, shown) {
  const { queued, running, done, failed } = progress;
  const all = queued + running + done + failed;
  const now = `${done + failed}/${all}`;
  if (find("work").dataset.sending !== "yes" && all) {
    find("work").hidden = progress.finished;
    showWork({ part: (done + failed) / all, text: `Analysed ${whole(done + failed)} of ${count(all, "image")}` });
  }
  shownFailures(progress.failures ?? []);
  if (now !== shown && done && !progress.finished && Date.now() - looked > FRESH) await lookAnew();
  return now;
}

const failed = new Set();
function shownFailures(failures) {
  showRefused(failures.filter(({ image, name }) => !failed.has(image ?? name) && failed.add(image ?? name)));
}

/** New cells while the analysis runs: shown at once until somebody has begun to read, then on their wish. */
async function lookAnew() {
  looked = Date.now();
  if (find("desk").hidden) await refreshCase();
  if (!begun) await ask({});
  const before = list.cells.length;
  await refreshNumbers();
  offerFresh((list.counts?.every ?? 0) - before);
}

function offerFresh(more) {
  const offer = begun && list.filter === "every" && more > 0;
  find("fresh").hidden = !offer;
  if (offer) find("fresh").textContent = `${count(more, "new cell")}: show`;
}

async function finish() {
  find("work").hidden = true;
  const shown = list.cells.length;
  await refreshCase();
  if (!closing.item.images) return;
  if (!begun) await ask({});
  await refreshNumbers();
  if (begun) offerFresh((list.counts?.every ?? 0) - shown);
  describeWall();
  field.refresh();
  if (list.counts) say(`The analysis has finished: ${count(list.counts.every, "cell")}.`);
}

// --- joining ------------------------------------------------------------------------------------------------------

function listen() {
  list.addEventListener("renewed", () => (showCounts(), keepChosen()));
  list.addEventListener("grown", describeWall);
  list.addEventListener("counted", showCounts);
  list.addEventListener("changed", ({ detail }) => (detail === grid.chosen && showChosen(), field.replace(list.at(detail)), refreshNumbersSoon()));
  list.addEventListener("elsewhere", ({ detail }) => (field.replace(detail), refreshNumbersSoon()));
  list.addEventListener("failed", ({ detail }) => complain(detail));
  grid.addEventListener("chosen", ({ detail }) => showChosen(detail));
  reviews.addEventListener("failed", ({ detail }) => unsaved(detail));
  reviews.addEventListener("outdated", ({ detail }) => outdatedReview(detail));
  reviews.addEventListener("settled", refreshNumbersSoon);
  readers.addEventListener("done", () => renew().catch(complain));
  readers.addEventListener("differ", () => ask({ filter: "disputed" }));
  reader.addEventListener("agree", agree);
  reader.addEventListener("label", ({ detail }) => label(detail));
  reader.addEventListener("undo", undo);
  reader.addEventListener("field", openField);
  reader.addEventListener("seen", toggleSeen);
  reader.addEventListener("step", ({ detail }) => step(detail));
  closing.addEventListener("done", async () => (await refreshCase(), await ask({}), refreshNumbers(), showChosen()));
  closing.addEventListener("field", ({ detail }) => field.open(detail));
  field.addEventListener("chosen", ({ detail }) => list.placeOf(detail) >= 0 && grid.choose(list.placeOf(detail)));
  field.addEventListener("key", ({ detail }) => singleKeys() && detail.key !== "f" && readingKey(detail));
  selection.addEventListener("said", ({ detail }) => label(detail));
  selection.addEventListener("merge", merge);
  selection.addEventListener("changed", () => ((begun ||= selection.size > 0), reader.showMany(selection.size)));
  for (const change of ["added", "redrawn", "removed", "merged", "split"]) field.addEventListener(change, ({ detail }) => changed(change, detail));
  field.addEventListener("outdated", ({ detail }) => (reader.forget(detail.image), list.replace(detail)));
  field.addEventListener("area", () => watch());
  field.addEventListener("closed", () => (grid.node.focus({ preventScroll: true }), grid.chosen >= 0 && grid.reveal(grid.chosen)));
  listenToControls();
  document.addEventListener("keydown", onKey);
}

function keepChosen() {
  const place = reader.cell ? list.placeOf(reader.cell.id) : -1;
  if (place >= 0) grid.choose(place, { scroll: false });
  else if (!NARROW.matches && list.total) grid.choose(0, { scroll: false });
  else reader.show(null);
}

async function changed(what, cell) {
  reader.forget(cell.image);
  say(`Cell ${cell.number} ${what}.`);
  await ask({});
  if (what !== "removed" && list.placeOf(cell.id) >= 0) grid.choose(list.placeOf(cell.id));
  await refreshNumbers();
}

/** After a press with the mouse, keys go to the cells again: Space must not press the same button once more. */
function keysToCells(event) {
  const button = event.target.closest("#desk button, #desk a, #desk select");
  const pressed = event.detail > 0 && button && !document.querySelector("dialog[open]");
  if (pressed && !document.body.classList.contains("sheet-open") && !find("grid").hidden) grid.node.focus({ preventScroll: true });
}

function listenToControls() {
  find("desk").addEventListener("click", keysToCells);
  find("add-button").addEventListener("click", () => openAdd(find("add").hidden));
  find("heat-button").addEventListener("click", toggleHeat);
  find("order").addEventListener("change", () => sortBy(find("order").value));
  find("similar-button").addEventListener("click", sortByLikeness);
  judged.addEventListener("begun", watch);
  find("zoom").addEventListener("input", () => zoom(Number(find("zoom").value)));
  find("fresh").addEventListener("click", () => ask({}));
  find("reader-close").addEventListener("click", () => history.back());
  find("reader-previous").addEventListener("click", () => step(-1));
  find("reader-next").addEventListener("click", () => step(1));
  find("refusals-close").addEventListener("click", () => ((find("refusals").hidden = true), find("refusals").querySelector("ul").replaceChildren()));
  addEventListener("popstate", () => openSheet(false));
  NARROW.addEventListener("change", () => !NARROW.matches && openSheet(false));
}

function introduceModel() {
  const { model } = words;
  if (!model) return;
  const synthetic = model.synthetic ? " Trained on synthetic cells: for trying only." : "";
  find("model-line").textContent = `Model: ${model.name}.${synthetic}`;
  const disease = words.positive ? words.title(words.positive) : "";
  const other = words.classes.find((name) => name !== words.positive);
  const keys = disease ? [element("i", { class: "for" }), `speaks for ${disease}`, element("i", { class: "against" }), `for ${words.title(other)}`] : [element("i", { class: "for" }), "speaks for the class"];
  find("heat-key").append(...keys);
  const limits = model.limits ?? [];
  find("limits").append(element("b", {}, "What the model knows, and what not."), ` ${limits.join(" ")}`);
  find("limits").hidden = !limits.length;
}

try {
  const stored = Number(localStorage.getItem("cell-size"));
  zoom(stored || (NARROW.matches ? 2 : 3));
  introduceModel();
  listen();
  const item = await refreshCase();
  open();
  if (item.images) {
    await ask({});
    if (new URLSearchParams(location.search).get("order") === "teaching" && item.state === "open" && item.reading.model_shown) {
      await sortBy("teaching");
    }
    refreshNumbers();
    if (!item.progress?.finished) watch();
  }
} catch (error) {
  if (error.status === 404) notHere();
  complain(error);
}

function notHere() {
  find("case-title").textContent = "This case is not here";
  find("case-actions").hidden = true;
}
