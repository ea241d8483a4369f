// Signing in: a one-time token from the address, or a name and a password.

import { session, signIn } from "./api.js";
import { blame, dress } from "./frame.js";
import { find } from "./element.js";

const FORMS = { account: find("account-form"), token: find("token-form") };
const OTHER = { account: "Sign in with a one-time token", token: "Sign in with name and password" };

// Why the hospital's own account did not let somebody in; {} is what the room calls it.
const PROBLEMS = {
  away: "{} does not answer just now. Try again in a moment, or sign in with name and password.",
  busy: "Too many people sign in with {} just now. Try again in a moment.",
  closed: "Your account is closed in this room. Ask an admin of the room.",
  name_taken: "Your name belongs to other accounts of this room. Ask an admin of the room.",
  no_role: "{} knows you, but gives you no role in this room. Ask whoever manages its groups.",
  not_known: "{} does not know this room, or its secret is wrong. Tell whoever manages the room.",
  refused: "{} did not sign you in. Try again, or ask whoever manages it.",
  stale: "This sign-in was begun too long ago, or in another browser. Sign in again.",
  untrusted: "The answer of {} cannot be trusted, so nobody is signed in with it. Tell whoever manages the room.",
  wait: "Too many sign-ins from this address failed. Wait some minutes, then try again.",
};

function offerOther(title) {
  if (!title) return;
  const way = find("oidc-way");
  way.firstElementChild.textContent = `Sign in with ${title}`;
  way.firstElementChild.href += `?then=${encodeURIComponent(next())}`;
  way.hidden = false;
}

function explain(title) {
  const words = PROBLEMS[new URLSearchParams(location.search).get("problem")];
  find("sign-in-problem").hidden = !words;
  find("sign-in-problem").textContent = (words ?? "").replace("{}", title || "The hospital's account").replace(/^./, (first) => first.toUpperCase());
}

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
  other.hidden = find("sign-in-wait").hidden = false;
  find("sign-in-wait").hidden = true;
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
    offerOther(error.detail?.oidc);
    explain(error.detail?.oidc);
    offer(error.detail?.accounts || error.detail?.oidc ? "account" : "token");
    if (error.status !== 401) blame(error.detail?.accounts ? FORMS.account : FORMS.token, error);
  }
}

arrive();
