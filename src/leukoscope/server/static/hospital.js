// What the hospital calls a case, and sending what was signed to its systems.

import { get, outdated, send } from "./api.js";
import { element, find } from "./element.js";
import { blame, complain, note } from "./frame.js";
import { count, when } from "./words.js";

const NUMBERS = ["patient_id", "accession", "order", "specimen"];
const LOOK = 2000; // ms between two requests while something is being sent
const STATES = { queued: "waiting", running: "on its way", done: "sent", failed: "not taken" };

export class Hospital {
  constructor({ caseId, closing }) {
    Object.assign(this, { caseId, closing, known: null });
    find("hospital-button").addEventListener("click", () => this.open());
    find("hospital-form").addEventListener("submit", (event) => this.save(event));
  }

  async open() {
    blame(find("hospital-form"), null);
    try {
      this.fill(await get(`/cases/${this.caseId}/hospital`));
      find("hospital").showModal();
      this.watch();
    } catch (error) {
      complain(error);
    }
  }

  fill(known) {
    const { elements } = find("hospital-form");
    for (const name of NUMBERS) {
      elements[name].value = known[name];
      elements[name].disabled = this.closing.signed;
    }
    find("hospital-form").querySelector("[type=submit]").hidden = this.closing.signed;
    find("hospital-hint").textContent = this.closing.signed ? "The case is signed off; reopen it to change these numbers." : "These numbers go to the hospital’s systems alone. They are in no log and in no file name.";
    this.show(known);
  }

  show(known) {
    this.known = known;
    find("sendings").hidden = !known.destinations.length && !known.sendings.length;
    const free = this.closing.signed && this.closing.item?.may?.reopen !== false;
    find("destinations").replaceChildren(
      ...known.destinations.map(({ name }) => element("button", { type: "button", disabled: !free, onclick: () => this.send(name) }, `Send to ${name}`)),
      free ? "" : element("p", { class: "soft" }, this.closing.signed ? "A reviewer sends it." : "It can be sent once it is signed off."),
    );
    find("sending-list").replaceChildren(...known.sendings.map((each) => this.row(each)));
  }

  row(each) {
    const files = each.files > 1 ? `${each.stored} of ${count(each.files, "file")}` : "";
    const old = each.of_this_sign_off ? "" : "of an earlier sign-off";
    const facts = [STATES[each.state], files, old, `by ${each.by}`, when(each.finished ?? each.created)].filter(Boolean).join(", ");
    return element("li", {}, element("div", {}, element("b", {}, each.to), element("span", { class: "soft" }, facts), each.error ? element("span", { class: each.state === "failed" ? "wrong" : "soft" }, each.error) : null));
  }

  async save(event) {
    event.preventDefault();
    const { elements } = event.target;
    const numbers = Object.fromEntries(NUMBERS.map((name) => [name, elements[name].value.trim()]));
    try {
      this.show(await send("PUT", `/cases/${this.caseId}/hospital`, numbers, { seen: this.known.etag }));
      blame(event.target, null);
      note("Saved.");
      this.closing.dispatchEvent(new Event("done"));
    } catch (error) {
      if (outdated(error)) this.known.etag = error.detail.hospital.etag; // what was typed stays; Save now saves it
      blame(event.target, error);
    }
  }

  async send(to) {
    try {
      this.show(await send("POST", `/cases/${this.caseId}/sendings`, { to }));
      this.watch();
    } catch (error) {
      blame(find("hospital-form"), error);
    }
  }

  /** Look again while something is on its way and the sheet is open. */
  watch() {
    clearTimeout(this.timer);
    const open = this.known?.sendings.some(({ state }) => state === "queued" || state === "running");
    if (!open || !find("hospital").open) return;
    this.timer = setTimeout(async () => {
      try {
        this.show(await get(`/cases/${this.caseId}/hospital`));
      } catch {
        // the next request may find it
      }
      this.watch();
    }, LOOK);
  }
}
