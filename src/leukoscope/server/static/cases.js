// The list of cases, and two ways to start one: by name, or by dropping images.

import { get, send } from "./api.js";
import { debounced, element, find } from "./element.js";
import { blame, complain, enter } from "./frame.js";
import { howOf } from "./readers.js";
import { caseName, receive } from "./upload.js";
import { count, when, whole } from "./words.js";

const PAGE = 50;
const BLIND = ["reading", "third"];
const asked = { query: "", state: "", offset: 0 };
let turn = 0; // an answer to an older question is dropped

async function list({ more = false } = {}) {
  asked.offset = more ? find("cases").children.length : 0;
  const mine = ++turn;
  try {
    const found = await get(`/cases?${new URLSearchParams({ ...asked, limit: PAGE })}`);
    if (mine !== turn) return;
    const rows = found.cases.map(row);
    if (more) find("cases").append(...rows);
    else find("cases").replaceChildren(...rows);
    describe(found.total);
  } catch (error) {
    complain(error);
  }
}

function describe(total) {
  const searching = Boolean(asked.query || asked.state);
  const none = searching ? "No case is like that." : "No cases yet. Drop images above, and the first cells are read within seconds.";
  find("list-words").textContent = total ? count(total, "case") : none;
  find("finding").hidden = !total && !searching;
  find("more").hidden = find("cases").children.length >= total;
  document.body.classList.toggle("first-start", !total && !searching);
}

function row(item) {
  const read = item.cells - item.unread;
  const busy = item.progress && !item.progress.finished && item.images > 0;
  return element(
    "li",
    {},
    element(
      "a",
      { class: "case-row", href: `/cases/${item.id}` },
      element("span", { class: "case-row-name" }, element("b", {}, item.name), item.subject ? element("span", { class: "soft" }, item.subject) : null),
      element("span", { class: "soft case-row-when" }, when(item.created)),
      element("span", { class: "case-row-read" }, bar(read, item.cells), element("span", { class: "soft" }, reading(item, { read, busy }))),
      chip(item, { read, busy }),
    ),
  );
}

function bar(read, cells) {
  return element("progress", { max: cells || 1, value: read, "aria-label": "Cells read by people" });
}

function reading(item, { read, busy }) {
  if (busy) return `${count(item.cells, "cell")} so far`;
  const by = BLIND.includes(item.phase) ? " by you" : "";
  const differ = item.unsettled ? `; ${whole(item.unsettled)} not settled` : "";
  return item.cells ? `${whole(read)} of ${count(item.cells, "cell")} read${by}${differ}` : "no cells";
}

function chip(item, { busy }) {
  if (item.state === "signed") return element("span", { class: "chip good" }, "signed off");
  if (busy) return element("span", { class: "chip model" }, "being analysed");
  if (item.phase === "consensus") return element("span", { class: "chip size" }, "to settle");
  if (item.phase === "third") return element("span", { class: "chip size" }, "third reader");
  if (item.phase === "reading" && item.cells && !item.unread) return element("span", { class: "chip" }, "read by you");
  if (item.phase === "reading") return element("span", { class: "chip" }, item.readers > 1 ? `${item.readers} readers` : "to read");
  if (item.cells && !item.unread) return element("span", { class: "chip size" }, "ready to sign");
  return element("span", { class: "chip" }, item.cells ? "to read" : "empty");
}

async function startWith(files) {
  if (!files.length) return;
  try {
    await entered;
    const made = await send("POST", "/cases", { name: caseName(files) });
    await turnTo(`/cases/${made.id}`);
    (await import("./case.js")).take(files);
  } catch (error) {
    complain(error);
  }
}

/** Become the page of a case without leaving this one: chosen files do not outlive a page. */
async function turnTo(path) {
  const response = await fetch(path);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  history.pushState(null, "", path);
  document.title = page.title;
  document.body.replaceWith(document.adoptNode(page.body));
  addEventListener("popstate", () => location.pathname !== path && location.reload());
}

async function openForm(open) {
  find("new-form").hidden = !open;
  find("new-case").setAttribute("aria-expanded", String(open));
  if (!open) return;
  find("new-form").elements.name.focus();
  try {
    const usual = await get("/laboratory");
    const { readers, hide_model: hidden, settling } = find("new-form").elements;
    [readers.value, hidden.checked, settling.value] = [String(usual.readers), usual.hide_model, usual.settling];
    find("new-how").open = usual.readers > 1 || usual.hide_model;
  } catch (error) {
    blame(find("new-form"), error);
  }
}

function listen() {
  find("new-case").addEventListener("click", () => openForm(find("new-form").hidden));
  find("new-cancel").addEventListener("click", () => (openForm(false), find("new-case").focus()));
  find("new-form").addEventListener("submit", make);
  find("more").addEventListener("click", () => list({ more: true }));
  find("query").addEventListener("input", debounced(() => ((asked.query = find("query").value.trim()), list()), 200));
  for (const button of document.querySelectorAll("[data-state]")) button.addEventListener("click", () => filter(button));
  receive({
    zone: document.body,
    buttons: { files: find("choose-files"), folder: find("choose-folder") },
    inputs: { files: find("files"), folder: find("folder") },
    take: startWith,
    over: (there) => find("drop").classList.toggle("over", there),
  });
}

async function make(event) {
  event.preventDefault();
  const { name, subject } = event.target.elements;
  try {
    await entered;
    const made = await send("POST", "/cases", { name: name.value.trim(), subject: subject.value.trim(), ...howOf(event.target) });
    location.assign(`/cases/${made.id}`);
  } catch (error) {
    blame(event.target, error);
  }
}

function filter(button) {
  for (const each of document.querySelectorAll("[data-state]")) each.setAttribute("aria-pressed", String(each === button));
  asked.state = button.dataset.state;
  list();
}

// Listens before it knows who is here: a file that is dropped early must not be lost, or opened by the browser.
const entered = enter();
listen();
await entered;
await list();
