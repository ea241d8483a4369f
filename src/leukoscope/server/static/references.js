// Cells to compare one with, at its own scale: training cells that the model finds like it, and the laboratory's own.

import { address, get } from "./api.js";
import { debounced, element, find } from "./element.js";
import { thumbnail } from "./pictures.js";
import { titled } from "./words.js";

const PATIENCE = 250; // ms that a cell is looked at before others are fetched for it
const SIDE = 90; // px of a frame

export class References {
  constructor({ words }) {
    Object.assign(this, { words, cell: null, known: new Map() });
    this.node = find("references");
    this.soon = debounced(() => this.fetch(), PATIENCE);
  }

  show(cell) {
    if (cell?.id === this.cell?.id && cell?.etag === this.cell?.etag) return;
    this.cell = cell;
    this.node.hidden = true;
    if (cell) this.soon();
  }

  async fetch() {
    const { cell } = this;
    const key = `${cell.id} ${cell.etag}`;
    try {
      if (!this.known.has(key)) this.known.set(key, await get(`/cells/${cell.id}/references`));
    } catch {
      return; // they are a help, and no part of reading
    }
    if (cell === this.cell) this.draw(this.known.get(key));
  }

  draw({ um_across: um, own_um_across: own, training, signed_off: signed }) {
    this.node.hidden = !training.length && !signed.length;
    const mine = frame({ src: thumbnail(this.cell, SIDE), um: own ?? um, to: um, label: "This cell", style: "mine" });
    const theirs = training.map(({ label, credit, picture }) => frame({ src: address(picture), um, to: um, label: titled(label), title: credit }));
    const ours = signed.map((each) => frame({ src: thumbnail(each, SIDE), um: each.um_across ?? um, to: um, label: titled(this.words.title(each.label)), title: `Cell ${each.number} of a case that was signed off`, href: `/cases/${each.case}` }));
    const known = Boolean(theirs.length);
    find("references-title").hidden = find("references-training").hidden = !known;
    find("references-training").replaceChildren(...(known ? [mine, ...theirs] : []));
    find("references-own").replaceChildren(...(known ? ours : [mine, ...ours]));
    find("references-own-title").hidden = find("references-own").hidden = !ours.length;
    find("references-credit").textContent = [...new Set(training.map(({ credit }) => credit))].join(". ");
  }
}

/** A picture that shows `um` micrometres, in a frame of `to` micrometres. */
function frame({ src, um, to, label, title, style = "", href }) {
  const image = element("img", { alt: "", src, loading: "lazy" });
  image.style.width = `${(100 * um) / to}%`;
  const inside = [element("span", { class: "frame" }, image), element("span", { class: "label" }, label)];
  return element("li", { class: style, title }, ...(href ? [element("a", { href }, ...inside)] : inside));
}
