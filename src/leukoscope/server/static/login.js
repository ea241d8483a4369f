// The door: a one-time token from the address, or a name and a password.

import { session, signIn } from "./api.js";
import { blame, dress } from "./frame.js";
import { find } from "./element.js";

const FORMS = { account: find("account-form"), token: find("token-form") };
const OTHER = { account: "Sign in with a one-time token", token: "Sign in with name and password" };

function next() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  return /^\/(?![/\\])/.test(wanted) ? wanted : "/"; // a path of this page, never another site
}

function tokenIn(text) {
  const found = /[#?&]token=([^&\s]+)/.exec(text);
  return found ? decodeURIComponent(found[1]) : "";
}

function offer(way) {
  for (const [name, form] of Object.entries(FORMS)) form.hidden = name !== way;
  const other = find("other-way");
  other.hidden = find("door-wait").hidden = false;
  find("door-wait").hidden = true;
  other.firstElementChild.textContent = OTHER[way];
  other.firstElementChild.onclick = () => offer(way === "account" ? "token" : "account");
  FORMS[way].querySelector("input").focus();
}

async function knock(form, how) {
  try {
    await signIn(how);
    location.replace(next());
  } catch (error) {
    offer(form === FORMS.token ? "token" : "account");
    blame(form, error);
    form.querySelector("input:last-of-type").select();
  }
}

FORMS.account.addEventListener("submit", (event) => {
  event.preventDefault();
  const { name, password } = event.target.elements;
  knock(FORMS.account, { name: name.value.trim(), password: password.value });
});

FORMS.token.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = event.target.elements.token.value.trim();
  knock(FORMS.token, { token: tokenIn(text) || text });
});

async function arrive() {
  dress();
  const token = tokenIn(location.hash) || tokenIn(location.search);
  if (token) {
    history.replaceState(null, "", "/login"); // a used token has no business in the history
    return knock(FORMS.token, { token });
  }
  try {
    await session();
    location.replace(next());
  } catch (error) {
    offer(error.detail?.accounts ? "account" : "token");
    if (error.status !== 401) blame(error.detail?.accounts ? FORMS.account : FORMS.token, error);
  }
}

arrive();
