// Who reads a case: how far they are, what they may do next, and where they differ once all have finished.

import { get, send } from "./api.js";
import { element, find } from "./element.js";
import { blame, complain, confirmed, note } from "./frame.js";
import { count, fixed, when, whole } from "./words.js";

const BLIND = ["reading", "third"];

export class Readers extends EventTarget {
  constructor({ caseId, account }) {
    super();
    Object.assign(this, { caseId, account, item: null, agreement: null });
    find("finish-button").addEventListener("click", () => this.finish());
    find("go-on-button").addEventListener("click", () => this.act(() => send("DELETE", `/cases/${caseId}/readings/finish`), "You read on."));
    find("third-button").addEventListener("click", () => this.act(() => send("PATCH", `/cases/${caseId}`, { settling: "third" }), "A third reader can open the case now."));
    find("differ-button").addEventListener("click", () => this.dispatchEvent(new Event("differ")));
    find("how-button").addEventListener("click", () => this.openHow());
    find("how-form").addEventListener("submit", (event) => this.changeHow(event));
  }

  get reading() {
    return this.item?.reading ?? { phase: "free", people: [], readers: 1, model_shown: true };
  }

  get blind() {
    return BLIND.includes(this.reading.phase);
  }

  /** The round to which an answer belongs that is given now. */
  get round() {
    const { phase } = this.reading;
    return { free: "reading", reading: "reading", third: "third" }[phase] ?? "consensus";
  }

  /** Whether the signed-in reader can say nothing more here, and why. */
  get shut() {
    const { mine, phase, free } = this.reading;
    if (!this.blind) return "";
    const held = mine && !mine.released;
    if (held && mine.round !== phase) return "You have finished. A third reader reads the cells on which you differ.";
    if (held && mine.finished) return "You have finished reading. Read on first, if you want to change something.";
    if (!held && !free) return "All places are taken: others read this case. A reviewer can release a place.";
    return "";
  }

  /** Show how a case is read now. */
  async show(item) {
    const before = this.item?.reading?.phase;
    this.item = item;
    const { people, phase, readers } = this.reading;
    find("readers").hidden = phase === "free" && people.length < 2 && readers === 1;
    find("readers-words").textContent = this.words();
    find("readers-list").replaceChildren(...people.map((each) => this.person(each)));
    this.showButtons();
    if (before !== phase) await this.showAgreement();
  }

  words() {
    const { phase, readers, free, hide_model: hidden, unsettled } = this.reading;
    const places = free ? ` ${count(free, "place is", "places are")} free.` : "";
    const model = hidden ? " You do not see the model’s answers." : "";
    const who = readers === 1 ? "Read by one person, who does not see the model’s answers." : `Read by ${readers} people, each blind to the others.${model}`;
    return {
      free: "Several people have read this case. The last answer to a cell counts; the others are kept.",
      reading: who + places,
      third: `The readers differ on ${count(unsettled, "cell")}. A third reader reads these, blind to their answers.${places}`,
      consensus: `The readers differ on ${count(unsettled, "cell")}. Discuss them: all answers are shown with each cell, and the one that you give now settles it.`,
      settled: readers === 1 ? "The reader has finished." : "All readers have finished, and nothing is left to settle.",
    }[phase];
  }

  person({ account, reader, active, round, read, finished, released }) {
    const { mine, phase } = this.reading;
    const facts = [round === "third" ? "third reader" : "", `${whole(read)} read`, finished ? `finished ${when(finished)}` : "", released ? "place given back" : "", active ? "" : "account closed"];
    const may = this.blind && !released && round === phase && (account === mine?.account || this.item.may?.sign || this.item.may?.delete);
    const release = may ? element("button", { type: "button", class: "link", "aria-label": `Release the place of ${reader}`, onclick: () => this.release({ account, reader }) }, "release") : null;
    return element("li", { class: released ? "closed" : "" }, element("b", {}, reader), element("span", { class: "soft" }, facts.filter(Boolean).join(", ")), release);
  }

  showButtons() {
    const { mine, phase, readers, unsettled, people } = this.reading;
    const reads = this.blind && mine && !mine.released && mine.round === phase;
    const open = this.item.state === "open";
    find("finish-button").hidden = !(open && reads && !mine.finished);
    find("go-on-button").hidden = !(open && reads && mine.finished);
    const readBefore = people.some(({ round, finished }) => round === "third" && finished);
    find("third-button").hidden = !(open && phase === "consensus" && readers === 2 && !readBefore && this.item.may?.sign);
    find("differ-button").hidden = !unsettled || this.blind;
    find("how-button").hidden = !this.item.may?.sign;
  }

  async showAgreement() {
    const open = ["consensus", "settled"].includes(this.reading.phase) && this.reading.readers > 1;
    find("readers-agreement").hidden = !open;
    if (!open) return;
    try {
      const { agreement } = await get(`/cases/${this.caseId}/agreement`);
      find("readers-agreement").textContent = agreement ? agreementWords(agreement) : "";
    } catch (error) {
      complain(error);
    }
  }

  async finish() {
    const { cells, unread, reading } = this.item;
    const left = reading.phase === "third" ? reading.unsettled - reading.mine.read : unread;
    const of = reading.phase === "third" ? reading.unsettled : cells;
    const rest = left > 0 ? `You have not read ${whole(left)} of ${count(of, "cell")}: they will not be compared. ` : "";
    const words = `${rest}When every reader has finished, all see each other's answers, and none can be changed any more.`;
    if (await confirmed({ title: "Have you finished reading?", words, yes: "I have finished" })) {
      await this.act(() => send("POST", `/cases/${this.caseId}/readings/finish`), "Your reading is finished.");
    }
  }

  async release({ account, reader }) {
    const words = `The answers of ${reader} are kept, and no longer count. Somebody else can take the place.`;
    if (await confirmed({ title: `Release the place of ${reader}?`, words, yes: "Release" })) {
      await this.act(() => send("DELETE", `/cases/${this.caseId}/readings/${account}`), `The place of ${reader} is free.`);
    }
  }

  openHow() {
    const { readers, hide_model: hidden, settling } = this.reading;
    const form = find("how-form").elements;
    [form.readers.value, form.hide_model.checked, form.settling.value] = [String(readers), hidden, settling];
    blame(find("how-form"), null);
    find("how").showModal();
  }

  async changeHow(event) {
    event.preventDefault();
    try {
      await send("PATCH", `/cases/${this.caseId}`, howOf(event.target));
      find("how").close();
      this.dispatchEvent(new Event("done"));
    } catch (error) {
      blame(event.target, error);
    }
  }

  async act(work, words) {
    try {
      await work();
      note(words);
    } catch (error) {
      complain(error);
    }
    this.dispatchEvent(new Event("done"));
  }
}

/** How cases are read, as a form states it. */
export function howOf(form) {
  const { readers, hide_model: hidden, settling } = form.elements;
  return { readers: Number(readers.value), hide_model: hidden.checked, settling: settling.value };
}

/** "They agree on 88 % of 8 cells; Cohen's kappa 0.75 (95 % interval 0.31 to 0.93, over the cells of this case)". */
export function agreementWords({ percent: agreed, kappa, statistic, cells, unit, readers }) {
  if (agreed.value === null) return "No cell was read by all of them, so there is nothing to compare.";
  const pairs = readers.length > 2 ? "of their pairs of answers" : "";
  const of = `They agree on ${Math.round(100 * agreed.value)}\u00a0% ${pairs} of ${count(cells, "cell")} that all have read`.replace("  ", " ");
  return `${of}; ${kappaWords({ statistic, kappa, unit: `${unit} of this case` })}.`;
}

export function kappaWords({ statistic, kappa, unit }) {
  if (kappa.value === null) return `${statistic} is not defined, since all gave every cell the same label`;
  const between = kappa.low === null ? " (no interval)" : ` (95\u00a0% interval ${fixed(kappa.low)} to ${fixed(kappa.high)}, over the ${unit})`;
  return `${statistic} ${fixed(kappa.value)}${between}`;
}
