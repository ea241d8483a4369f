// One cell large: the model’s answer, how sure it is, the field around the cell, and the buttons to label it.

import { address, get } from "./api.js";
import { drawn, element, find, icon } from "./element.js";
import { References } from "./references.js";
import { Stage } from "./stage.js";
import { count, percent, saidOf, titled, when } from "./words.js";

const AROUND = 2.4; // height of the field shown around a cell, in sizes of the cell
const SHAPE = 5 / 2; // its width to its height, as in the style

export class Reader extends EventTarget {
  /** `mine` returns the answer that the reader who is signed in gave to a cell in this round. */
  constructor({ words, magnifier, frozen = () => false, mine = (cell) => cell.review?.label }) {
    super();
    Object.assign(this, { words, frozen, mine, cell: null, fields: new Map() });
    this.node = find("reader");
    this.stage = new Stage({ magnifier });
    this.stage.addEventListener("step", ({ detail }) => this.tell("step", detail));
    this.stage.addEventListener("seen", () => this.tell("seen"));
    this.references = new References({ words });
    this.makeButtons();
    find("around").addEventListener("click", () => this.tell("field"));
  }

  makeButtons() {
    const { words } = this;
    this.agree = this.button({ text: "Agree", key: "Space", style: "main agree", act: () => this.tell("agree") });
    const classes = [...words.classes].map((name) => this.button({ text: titled(words.title(name)), key: words.key(name), style: `class hue-${words.hue(name)}`, act: () => this.tell("label", name), name }));
    const unsure = this.button({ text: "Unsure", key: "0", style: "class hue-unsure", act: () => this.tell("label", "unsure"), name: "unsure" });
    const none = this.button({ text: "Not a cell", key: "X", style: "class hue-refused", act: () => this.tell("label", "not_a_cell"), name: "not_a_cell" });
    this.undo = this.button({ text: "Undo", key: "Z", style: "quiet", act: () => this.tell("undo"), sign: "undo" });
    const types = words.types.map((name) => this.button({ text: titled(words.title(name)), key: words.key(name).toUpperCase(), style: `class hue-${words.hue(name)}`, act: () => this.tell("label", name), name }));
    this.labels = [...classes, ...types, unsure, none];
    this.prompt = element("p", { class: "prompt", hidden: true }, "What is it?");
    find("verdicts").append(this.agree, this.prompt, element("div", { class: types.length ? "classes many" : "classes" }, ...classes, ...types, unsure, none), this.undo);
  }

  button({ text, key, style, act, name = "", sign = "" }) {
    return element("button", { type: "button", class: style, onclick: act, "data-label": name || undefined }, sign ? icon(sign) : null, element("span", {}, text), key ? element("kbd", {}, key) : null);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  show(cell) {
    const fresh = cell?.id !== this.cell?.id || cell?.etag !== this.cell?.etag;
    if (cell?.id !== this.cell?.id) find("reader-changed").hidden = true;
    this.cell = cell ?? null;
    find("reader-cell").hidden = !cell;
    find("reader-none").hidden = Boolean(cell);
    if (!cell) return;
    find("reader-title").textContent = `Cell ${cell.number}`;
    if (fresh) this.showPictures();
    this.references.show(cell);
    this.showFacts();
    this.showButtons();
  }

  /** Somebody has changed the cell that is shown: say so, and keep what its reader chose until they have looked. */
  showChange({ words, yes, keep }) {
    const box = find("reader-changed");
    const close = () => (box.hidden = true);
    const buttons = [element("button", { type: "button", class: "main", onclick: () => (close(), keep()) }, yes), element("button", { type: "button", onclick: close }, "Drop it")];
    box.replaceChildren(element("p", {}, words), element("div", { class: "row tight" }, ...(keep ? buttons : buttons.slice(1))));
    box.hidden = false;
  }

  showPictures() {
    this.stage.show(this.cell);
    this.showAround();
  }

  showFacts() {
    const { cell, words } = this;
    find("reader-said").textContent = opinion(cell, words);
    find("reader-said").className = `said hue-${words.hue(saidOf(cell))}`;
    find("chances").replaceChildren(...this.bars());
    find("reader-why").textContent = cell.reason ?? "";
    find("reader-why").hidden = !cell.reason;
    const { review } = cell;
    this.showAnswers();
    find("reader-review").replaceChildren(...(review ? [icon(words.corrects(cell) ? "pen" : "check"), `${review.reader} says ${words.title(review.label)}, ${when(review.time)}`] : []));
    find("reader-review").hidden = !review;
    find("reader-file").textContent = cell.name ?? "";
  }

  /** Every reader's last answer, side by side, where more than one has given one. */
  showAnswers() {
    const { words } = this;
    const answers = this.cell.answers ?? [];
    const rounds = { third: ", third reader", consensus: ", consensus" };
    const one = ({ reader, label, time, note, round }) => element("li", { class: `hue-${words.hue(label)}` }, element("span", { class: "soft" }, `${reader}${rounds[round] ?? ""}`), element("b", {}, words.title(label)), element("span", { class: "soft" }, when(time)), note ? element("q", {}, note) : null);
    find("reader-answers").replaceChildren(...(answers.length > 1 || (answers.length && !this.cell.review) ? answers.map(one) : []));
    find("reader-answers").hidden = !find("reader-answers").children.length;
  }

  bars() {
    const { cell, words } = this;
    if (cell.decision === "not asked") return Object.entries(cell.types ?? {}).sort(([, one], [, other]) => other - one).slice(0, 3).map(([name, chance]) => this.bar(name, chance));
    if (!cell.probability) return [];
    const shown = words.positive ? [words.positive] : words.classes;
    return shown.map((name) => this.bar(name, cell.probability[name]));
  }

  bar(name, chance) {
    const { words } = this;
    const line = element("div", { class: `chance hue-${words.hue(name)}`, role: "img", "aria-label": `probability of ${words.title(name)}: ${percent(chance)}` }, element("i", {}), this.cut(name));
    line.firstChild.style.width = `${100 * chance}%`;
    return element("div", { class: "chance-row" }, element("span", {}, `${words.title(name)} ${percent(chance)}`), line);
  }

  /** The operating point from which on a cell is called diseased. */
  cut(name) {
    const { thresholds = {}, point = "balanced" } = this.words.model ?? {};
    const threshold = name === this.words.positive ? thresholds[point] : undefined;
    if (threshold === undefined) return null;
    const mark = element("u", { title: `called ${this.words.title(name)} from ${percent(threshold)} on` });
    mark.style.left = `${100 * threshold}%`;
    return mark;
  }

  showButtons() {
    const { cell, words } = this;
    const decided = words.labels.includes(saidOf(cell)) && !this.many;
    this.prompt.textContent = this.many ? `What are the ${count(this.many, "selected cell", "selected cells")}?` : "What is it?";
    this.agree.hidden = !decided;
    this.prompt.hidden = decided;
    this.agree.querySelector("span").textContent = decided ? `Agree: ${words.title(saidOf(cell))}` : "Agree";
    for (const button of this.labels) button.setAttribute("aria-pressed", String(!this.many && button.dataset.label === this.mine(cell)));
    for (const button of [this.agree, this.undo, ...this.labels]) button.disabled = this.frozen();
  }

  /** While several cells are selected, the buttons speak of all of them. */
  showMany(number) {
    this.many = number;
    if (this.cell) this.showButtons();
  }

  /** The field around a cell that was found in one. */
  async showAround() {
    const { cell } = this;
    const node = find("around");
    node.hidden = !cell.box;
    this.node.classList.toggle("has-field", Boolean(cell.box));
    node.replaceChildren();
    if (!cell.box) return;
    node.setAttribute("aria-label", `Cell ${cell.number} in its field. Open the field.`);
    const field = await this.fieldOf(cell);
    if (field && cell.id === this.cell?.id) node.replaceChildren(...around(cell, field));
  }

  /** An image with the outlines of its cells, asked for once. */
  fieldOf({ image }) {
    if (!this.fields.has(image)) this.fields.set(image, get(`/images/${image}`).catch(() => this.forget(image)));
    return this.fields.get(image);
  }

  forget(image) {
    this.fields.delete(image);
  }
}

export function opinion(cell, words) {
  if (cell.decision === "hidden") return "You read blind to the model";
  if (cell.decision === "not asked") return cell.type === "unsure" ? "The model is unsure of its type" : `The model says ${words.title(cell.type)}`;
  if (cell.decision === "refused") return "The model refuses this picture";
  if (cell.decision === "unsure") return cell.called ? `Unsure, leaning to ${words.title(cell.called)}` : "The model is unsure";
  if (!cell.decision) return "The model has not seen this cell yet";
  return `The model says ${words.title(cell.decision)}`;
}

/** The cell's outline over the part of its field that lies around it. */
function around(cell, field) {
  const view = surroundings(cell.box, field);
  const src = address(`/images/${cell.image}/picture?box=${view.join(",")}&side=720&v=${cell.image}`);
  const whole = field.cells.find(({ id }) => id === cell.id) ?? cell;
  return [
    element("img", { alt: "", draggable: "false", src }),
    drawn("svg", { viewBox: view.join(" "), preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" }, outlined(whole)),
    element("span", {}, "In its field", element("kbd", {}, "F")),
  ];
}

/** [left, top, width, height] around a box, inside the image where the image is large enough. */
function surroundings([x, y, width, height], image) {
  const high = Math.round(Math.min(AROUND * Math.max(width, height), image.height, image.width / SHAPE));
  const wide = Math.round(high * SHAPE);
  const left = Math.max(0, Math.min(image.width - wide, x + width / 2 - wide / 2));
  const top = Math.max(0, Math.min(image.height - high, y + height / 2 - high / 2));
  return [Math.round(left), Math.round(top), wide, high];
}

export function outlined({ box, outline }) {
  if (outline?.length) return drawn("polygon", { points: outline.map((point) => point.join(",")).join(" "), "vector-effect": "non-scaling-stroke" });
  const [x, y, width, height] = box;
  return drawn("rect", { x, y, width, height, rx: 0.12 * width, "vector-effect": "non-scaling-stroke" });
}
