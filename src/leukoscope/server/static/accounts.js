// One's own tokens; for an admin also people and the log.

import { get, send } from "./api.js";
import { element, find, icon } from "./element.js";
import { blame, complain, confirmed, enter, leave, note } from "./frame.js";
import { howOf } from "./readers.js";
import { titled, Vocabulary, when, whole } from "./words.js";

const ROLES = ["reader", "reviewer", "admin"];
const ENTRIES = 50;
const me = await enter();

function introduce() {
  const where = me.laboratory ? ` in ${me.laboratory}` : "";
  find("me").textContent = `You are signed in as ${me.name}, ${me.role}${where}.`;
  find("own-password").hidden = me.password === false;
  if (me.role !== "admin") return;
  find("page-title").textContent = "Accounts";
  find("people").hidden = find("usual").hidden = find("counting").hidden = find("log").hidden = false;
}

// --- people -------------------------------------------------------------------------------------------------------

async function showPeople() {
  const { accounts } = await get("/accounts");
  find("people-list").replaceChildren(...accounts.map(person));
}

function person(account) {
  const role = element("select", { "aria-label": `Role of ${account.name}`, onchange: () => change(account, { role: role.value }) }, ...ROLES.map((name) => element("option", { value: name, selected: name === account.role }, name)));
  const toggle = element("button", { type: "button", onclick: () => change(account, { active: !account.active }) }, account.active ? "Close" : "Open again");
  toggle.setAttribute("aria-label", `${account.active ? "Close" : "Open"} the account of ${account.name}`);
  const own = account.name === me.name;
  role.disabled = own || account.elsewhere === true; // their provider says the role
  toggle.disabled = own;
  return element(
    "li",
    { class: account.active ? "" : "closed" },
    element("div", {}, element("b", {}, account.name), element("span", { class: "soft" }, [own ? "you" : "", account.laboratory, account.active ? "" : "closed", account.elsewhere ? "signs in through the hospital" : ""].filter(Boolean).join(", "))),
    role,
    account.elsewhere ? null : element("button", { type: "button", onclick: () => newPassword(account), "aria-label": `New password for ${account.name}` }, "New password"),
    toggle,
    ...(own ? [] : (account.tokens ?? []).map((token) => element("div", { class: "soft" }, `Token ${token.name} `, element("button", { type: "button", class: "link", onclick: () => endToken(token) }, "end it")))),
  );
}

async function change(account, what) {
  try {
    await send("PATCH", `/accounts/${account.id}`, what);
    note(`${account.name}: saved.`);
  } catch (error) {
    complain(error);
  }
  await refresh();
}

/** The password is made here and shown once: nobody has to think one up for somebody else. */
async function newPassword(account) {
  const sure = await sureOf(`Give ${account.name} a new password?`);
  if (!sure) return;
  const password = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => "abcdefghjkmnpqrstuvwxyz23456789"[byte % 31]).join("").replace(/(.{4})(?=.)/g, "$1-");
  try {
    await send("PATCH", `/accounts/${account.id}`, { password });
    showOnce(`New password of ${account.name}, shown only now: `, password);
  } catch (error) {
    complain(error);
  }
}

const sureOf = (title) => confirmed({ title, words: "The old one ends at once.", yes: "Yes" });

function showOnce(words, secret) {
  find("once").replaceChildren(element("span", {}, words), element("code", {}, secret));
  find("once").hidden = false;
  find("once").scrollIntoView({ block: "nearest" });
}

async function addPerson(event) {
  event.preventDefault();
  const { name, password, role, laboratory } = event.target.elements;
  const account = { name: name.value.trim(), password: password.value, role: role.value, ...(laboratory.value.trim() ? { laboratory: laboratory.value.trim() } : {}) };
  try {
    await send("POST", "/accounts", account);
    event.target.reset();
    blame(event.target, null);
    find("new-person").open = false;
    note(`${account.name} can sign in now.`);
    await refresh();
  } catch (error) {
    blame(event.target, error);
  }
}

// --- how cases are read ---------------------------------------------------------------------------------------------

async function showUsual() {
  const usual = await get("/laboratory");
  const { readers, hide_model: hidden, settling } = find("usual-form").elements;
  [readers.value, hidden.checked, settling.value] = [String(usual.readers), usual.hide_model, usual.settling];
}

async function saveUsual(event) {
  event.preventDefault();
  try {
    await send("PATCH", "/laboratory", howOf(event.target));
    blame(event.target, null);
    note("Saved, for cases that are made from now on.");
    await showLog();
  } catch (error) {
    blame(event.target, error);
  }
}

// --- how the laboratory counts: order, goal, keys -------------------------------------------------------------------

let served; // the model that answers
let taken = {}; // key -> what it means in the room, whatever a laboratory sets

async function showCounting() {
  const [{ models }, { order, goal, keys, taken: others }] = await Promise.all([get("/models"), get("/laboratory")]);
  [served, taken] = [models[0], others];
  find("counting-form").elements.goal.value = goal;
  find("rows-part").hidden = !served.types.length;
  find("counting-rows").replaceChildren(...order.map(rowOf));
  find("keys-taken").textContent = Object.entries(others).map(([key, what]) => `${key.toUpperCase()} (${what})`).join(", ");
  const own = new Vocabulary({ ...served, keys });
  const label = (name) => Object.entries(keys).find(([said]) => said === name || own.title(name) === said)?.[1] ?? "";
  find("key-fields").replaceChildren(...own.labels.map((name) => keyField(own, name, label(name))));
  checkKeys();
}

function rowOf(name) {
  const move = (by, words, sign) => element("button", { type: "button", class: "quiet icon-only", "aria-label": `${titled(name)}: ${words}`, onclick: (event) => moveRow(event.currentTarget, by) }, icon(sign));
  return element("li", { "data-row": name }, element("span", {}, titled(name)), move(-1, "up", "up"), move(1, "down", "lower"));
}

function moveRow(button, by) {
  const row = button.closest("li");
  const other = by < 0 ? row.previousElementSibling : row.nextElementSibling;
  if (!other) return;
  if (by < 0) other.before(row);
  else other.after(row);
  button.focus();
}

function keyField(words, name, key) {
  const field = element("input", { "data-label": name, maxlength: 1, value: key.toUpperCase(), placeholder: words.key(name).toUpperCase(), autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-describedby": "keys-hint", oninput: checkKeys });
  return element("label", { class: `hue-${words.hue(name)}` }, element("span", {}, element("i", {}), titled(words.title(name))), field);
}

const keyFields = () => [...find("key-fields").querySelectorAll("input")];
const keysSet = () => Object.fromEntries(keyFields().filter(({ value }) => value.trim()).map(({ dataset, value }) => [dataset.label, value.trim().toLowerCase()]));

/** Say at once where a key clashes, and show which keys the others then have. */
function checkKeys() {
  const keys = keysSet();
  const words = new Vocabulary({ ...served, keys });
  const faults = [];
  for (const field of keyFields()) {
    const { label } = field.dataset;
    const fault = keys[label] ? clash(words, label, keys) : "";
    field.setAttribute("aria-invalid", String(Boolean(fault)));
    field.placeholder = words.key(label).toUpperCase();
    if (fault) faults.push(fault);
  }
  blame(find("counting-form"), faults.length ? { message: faults[0] } : null);
  return !faults.length;
}

function clash(words, label, keys) {
  const key = keys[label];
  if (!/^[a-z0-9]$/.test(key)) return `The key for ${words.title(label)} is “${key}”. Give one letter or digit.`;
  if (taken[key]) return `${key.toUpperCase()} means ${taken[key]} in the room. Choose another key for ${words.title(label)}.`;
  const other = Object.keys(keys).find((name) => name !== label && keys[name] === key);
  return other ? `${key.toUpperCase()} is set for ${words.title(other)} and for ${words.title(label)}. Choose another key for one of them.` : "";
}

async function saveCounting(event) {
  event.preventDefault();
  if (!checkKeys()) return void find("key-fields").querySelector("[aria-invalid=true]").focus();
  const order = [...find("counting-rows").children].map(({ dataset }) => dataset.row);
  try {
    await send("PATCH", "/laboratory", { order, goal: Number(event.target.elements.goal.value), keys: keysSet() });
    note("Saved. Pages that are open show it when they are loaded again.");
    await Promise.all([showCounting(), showLog()]);
  } catch (error) {
    blame(event.target, error);
  }
}

// --- tokens -------------------------------------------------------------------------------------------------------

async function showTokens() {
  const { tokens } = await get("/tokens");
  find("token-list").replaceChildren(...tokens.map(tokenRow));
}

function tokenRow(token) {
  const used = token.last_used ? `last used ${when(token.last_used)}` : "never used";
  const facts = `may ${(token.scopes ?? []).join(", ")}; made ${when(token.created)}, ends ${when(token.expires)}, ${used}`;
  return element("li", {}, element("div", {}, element("b", {}, token.name), element("span", { class: "soft" }, facts)), element("button", { type: "button", class: "quiet icon-only", "aria-label": `End the token ${token.name}`, onclick: () => endToken(token) }, icon("bin")));
}

async function endToken(token) {
  try {
    await send("DELETE", `/tokens/${token.id}`);
    await refresh();
  } catch (error) {
    complain(error);
  }
}

async function makeToken(event) {
  event.preventDefault();
  try {
    const { name, scopes, days } = event.target.elements;
    const made = await send("POST", "/tokens", { name: name.value.trim(), scopes: scopes.value.split(","), days: Number(days.value) });
    blame(event.target, null);
    event.target.reset();
    showOnce("Copy it now, it is shown only once: ", made.token);
    await showTokens();
  } catch (error) {
    blame(event.target, error);
  }
}

async function changePassword(event) {
  event.preventDefault();
  const { old, new: wanted } = event.target.elements;
  try {
    await send("PUT", "/session/password", { password: old.value, new: wanted.value });
    blame(event.target, null);
    event.target.reset();
    note("Your password is changed. Your other sessions and your tokens have ended.");
    await showTokens();
  } catch (error) {
    blame(event.target, error);
  }
}

// --- the log ------------------------------------------------------------------------------------------------------

async function showLog({ more = false } = {}) {
  const rows = find("log-rows");
  const { total, entries, intact } = await get(`/audit-log?${new URLSearchParams({ offset: more ? rows.children.length : 0, limit: ENTRIES })}`);
  const made = entries.map((entry) => element("tr", {}, element("td", { class: "n" }, whole(entry.number)), element("td", { class: "nowrap" }, when(entry.time)), element("td", {}, entry.account ?? ""), element("td", {}, whatWords(entry))));
  if (!more) rows.replaceChildren();
  rows.append(...made);
  find("log-more").hidden = rows.children.length >= total;
  find("log-words").textContent = intact === false ? "The chain of this log is broken: entries were changed or taken out. Run leukoscope audit-log verify." : `${whole(total)} entries, each sealed with the one before it.`;
  find("log-words").className = intact === false ? "caution" : "soft";
}

/** "reviewed cell 7: normal instead of blast by ada", "added cell 12 in the place of 3 and 5". */
function whatWords({ action, kind, item, detail }) {
  const what = [action, kind, item].filter(Boolean).join(" ");
  if (detail?.replaces) return `${what} in the place of ${detail.replaces.join(" and ")}`;
  if (detail?.replaced_by) return `${what}: ${detail.replaced_by.join(" and ")} took its place`;
  if (detail?.label === undefined) return what;
  const old = detail.old ? ` instead of ${detail.old}${detail.old_reader ? ` by ${detail.old_reader}` : ""}` : "";
  return `${what}: ${detail.label || "nothing"}${old}`.replaceAll("not_a_cell", "not a cell");
}

async function refresh() {
  try {
    await showTokens();
    if (me.role === "admin") await Promise.all([showPeople(), showUsual(), showCounting(), showLog()]);
  } catch (error) {
    complain(error);
  }
}

introduce();
find("leave").addEventListener("click", leave);
find("person-form").addEventListener("submit", addPerson);
find("usual-form").addEventListener("submit", saveUsual);
find("counting-form").addEventListener("submit", saveCounting);
find("token-form").addEventListener("submit", makeToken);
find("password-form").addEventListener("submit", changePassword);
find("log-more").addEventListener("click", () => showLog({ more: true }).catch(complain));
await refresh();
