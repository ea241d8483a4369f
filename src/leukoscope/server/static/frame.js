// What every page has: who is signed in, dark or light, help, notes about errors, words for screen readers.

import { get, send, session } from "./api.js";
import { element, find, icon } from "./element.js";
import { titled, Vocabulary } from "./words.js";

const NOTE_SECONDS = 12;

/** Find out who is here; without a session, go and sign in. Returns the account, or never. */
export async function enter() {
  dress();
  try {
    const account = await session();
    welcome(account);
    return account;
  } catch (error) {
    complain(error);
    return new Promise(() => {});
  }
}

/** Show what went wrong and what to do. A session that has ended leads to the sign-in page and back to this one. */
export function complain(error) {
  if (error.status === 401) {
    const here = location.pathname + location.search;
    location.assign(`/login?next=${encodeURIComponent(here)}`);
    return;
  }
  if (!(error instanceof Error) || error.name !== "AbortError") note(error.message ?? String(error), { wrong: true });
  if (!error.code) console.error(error);
}

export function note(text, { wrong = false, action = null } = {}) {
  const shut = element("button", { class: "quiet icon-only", type: "button", "aria-label": "Close this note", onclick: () => box.remove() }, icon("close"));
  const box = element("div", { class: wrong ? "note wrong" : "note" }, element("p", {}, text), action, shut);
  for (const old of find("notes").children) if (old.firstChild.textContent === text) old.remove();
  find("notes").append(box);
  setTimeout(() => box.remove(), NOTE_SECONDS * 1000);
}

/** Speak to screen readers only. */
export function say(text) {
  find("said").textContent = text;
}

/** Ask before something that cannot be taken back. */
export function confirmed({ title, words, yes }) {
  const dialog = find("ask");
  find("ask-title").textContent = title;
  find("ask-words").textContent = words;
  find("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** A button that opens a small list under itself. */
export function menu(button, list) {
  const set = (open) => {
    list.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => {
    set(list.hidden);
    if (!list.hidden) list.querySelector("button, a")?.focus();
  });
  document.addEventListener("click", (event) => {
    if (!button.contains(event.target)) set(false);
  });
  list.parentElement.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || list.hidden) return;
    event.stopPropagation();
    set(false);
    button.focus();
  });
}

/** Show an error inside a form, next to what caused it. */
export function blame(form, error) {
  const place = form.querySelector(".wrong") ?? form.parentElement.querySelector(".wrong");
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

export const singleKeys = () => localStorage.getItem("single-keys") !== "off";

/** True where a key belongs to somebody else: a field, a dialog, or together with Ctrl, Alt or Meta. */
export function keyIsTaken(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return true;
  return Boolean(event.target.closest("input, select, textarea, dialog")) || Boolean(document.querySelector("dialog[open]"));
}

export function dress() {
  for (const kind of ["dragover", "drop"]) addEventListener(kind, keepPage);
  find("theme-button").addEventListener("click", turnTheme);
  find("help-button").addEventListener("click", showHelp);
  for (const dialog of document.querySelectorAll("dialog")) closable(dialog);
  const keys = find("keys-on");
  keys.checked = singleKeys();
  keys.addEventListener("change", () => localStorage.setItem("single-keys", keys.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "?" && singleKeys() && !keyIsTaken(event) && !find("help").open) showHelp();
  });
}

/** The help, with the keys that this laboratory has for its classes and types. */
async function showHelp() {
  find("help").showModal();
  try {
    const { models } = await get("/models");
    const words = new Vocabulary(models[0]);
    find("help-keys").replaceChildren(...words.labels.flatMap((name) => [element("dt", {}, element("kbd", {}, words.key(name).toUpperCase())), element("dd", {}, titled(words.title(name)))]));
    find("help-own").hidden = !words.labels.length;
  } catch {
    find("help-own").hidden = true; // nobody has signed in, or the server is away: the other keys are known all the same
  }
}

/** A file that is dropped where nothing takes it, or too early, must not take the place of the page. */
function keepPage(event) {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
}

function welcome(account) {
  document.querySelector(".rooms").hidden = false;
  find("who").textContent = account.name;
  find("who").title = `${account.name}, ${account.role}${account.laboratory ? `, ${account.laboratory}` : ""}`;
  find("who").hidden = find("sign-out").hidden = false;
  find("sign-out").addEventListener("click", leave);
}

export async function leave() {
  try {
    await send("DELETE", "/session");
    location.assign("/login");
  } catch (error) {
    complain(error);
  }
}

function turnTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const chosen = dark ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem("theme", chosen);
  say(`${chosen} colours`);
}

function closable(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close("");
  });
}
