// What is done with a case as a whole: export, sign off, reopen, rename, delete, manage its images.

import { address, download, get, outdated, send } from "./api.js";
import { element, find, icon } from "./element.js";
import { blame, complain, confirmed, menu, note } from "./frame.js";
import { overview } from "./slides.js";
import { isKnown, NOT_KNOWN, rangeWords, takenWord } from "./summary.js";
import { count, percent, titled, when, whole } from "./words.js";

const LISTED = 1000; // images in the list of a case
const EXPORTS = [
  ["html", "Report (HTML)", "for reading on a screen"],
  ["pdf", "Report (PDF)", "for the file"],
  ["csv", "Table (CSV)", "one row per cell"],
  ["counts", "Counts (CSV)", "differential, red cells and platelets"],
  ["json", "Summary (JSON)", "the same, with how each field was taken"],
  ["answers", "All answers (CSV)", "who answered what, when, and what they saw"],
  ["geojson", "Outlines (GeoJSON)", "for QuPath"],
  ["dicom", "DICOM", "reports and outlines, zipped"],
  ["dataset", "Labelled cells", "to train or adapt a model"],
];

export class Closing extends EventTarget {
  constructor({ caseId, words }) {
    super();
    Object.assign(this, { caseId, words, item: null, summary: null });
    menu(find("export-button"), find("export-menu"));
    menu(find("more-button"), find("more-menu"));
    find("export-menu").append(...EXPORTS.map((each) => this.exportButton(...each)));
    find("sign-button").addEventListener("click", () => this.openSign());
    find("reopen-button").addEventListener("click", () => this.reopen());
    find("sign-form").addEventListener("submit", (event) => this.sign(event));
    find("rename-button").addEventListener("click", () => this.openRename());
    find("rename-form").addEventListener("submit", (event) => this.rename(event));
    find("delete-button").addEventListener("click", () => this.remove());
    find("images-button").addEventListener("click", () => this.openImages());
  }

  get signed() {
    return this.item?.state === "signed";
  }

  /** Show what the case is called and what may be done with it now. */
  show(item) {
    this.item = item;
    const may = item.may ?? {};
    document.title = `${item.name} · leukoscope`;
    find("case-title").textContent = item.name;
    find("case-chips").replaceChildren(...this.chips().map(([style, text]) => element("li", { class: style }, text)));
    const phase = item.reading?.phase ?? "free";
    find("sign-button").hidden = this.signed || may.sign === false || !item.cells || !["free", "settled"].includes(phase);
    find("reopen-button").hidden = !this.signed || may.reopen === false;
    find("add-button").hidden = this.signed || may.review === false;
    find("rename-button").hidden = this.signed || may.review === false;
    find("delete-button").hidden = may.delete === false;
    find("export-button").disabled = !(item.cells || item.images) || Boolean(item.reading?.blind);
    find("export-button").title = item.reading?.blind ? "When its readers have finished" : "";
  }

  chips() {
    const { subject, signed, created } = this.item;
    return [
      subject ? ["", `Subject ${subject}`] : null,
      created ? ["", when(created)] : null,
      signed ? ["good", `Signed off by ${signed.by}, ${when(signed.time)}`] : null,
      signed?.note ? ["", `“${signed.note}”`] : null,
    ].filter(Boolean);
  }

  exportButton(kind, title, what) {
    return element("button", { type: "button", "data-export": kind, onclick: () => this.export(kind, title) }, element("b", {}, title), element("span", { class: "soft" }, what));
  }

  async export(kind, title) {
    find("export-button").classList.add("busy");
    try {
      const name = await download(`/cases/${this.caseId}/exports/${kind}`);
      note(`${title}: ${name} is in your downloads.`);
    } catch (error) {
      complain(error);
    }
    find("export-button").classList.remove("busy");
  }

  /** Look at the case once more, so that what is signed is what is shown. */
  async openSign() {
    blame(find("sign-form"), null);
    try {
      this.show(await get(`/cases/${this.caseId}`));
      this.summary = await get(`/cases/${this.caseId}/summary`);
    } catch (error) {
      return void complain(error);
    }
    this.showSign();
    find("sign").showModal();
  }

  showSign() {
    const { cells = 0, read = 0, unsure = 0, refused = 0, blast_share: share } = this.summary ?? {};
    const disease = this.words.positive ? this.words.title(this.words.positive) : "disease";
    const facts = [
      [`${titled(disease)} share`, isKnown(share) ? percent(share.value) : NOT_KNOWN, rangeWords(share)],
      ["Read by people", whole(read), `of ${count(cells, "cell")}`],
      ["Unsure", whole(unsure), ""],
      ["Refused", whole(refused), ""],
    ];
    const left = cells - read;
    find("sign-words").replaceChildren(
      element("dl", { class: "figures" }, ...facts.map(([title, value, more]) => element("div", {}, element("dt", {}, title), element("dd", {}, element("b", {}, value), more ? element("span", {}, more) : null)))),
      element("p", { class: left ? "caution" : "soft" }, left ? `${count(left, "cell has", "cells have")} been read by nobody. For them the model’s answer counts.` : "Every cell has been read."),
    );
  }

  async sign(event) {
    event.preventDefault();
    const said = { note: event.target.elements.note.value.trim() };
    await this.act(find("sign"), () => send("POST", `/cases/${this.caseId}/sign-off`, said, { seen: this.item.etag }), "Signed off.");
  }

  /** The case was changed while its sign-off was open: show the new figures; the note that was written stays. */
  async showChange(error) {
    this.show(error.detail.case);
    this.summary = await get(`/cases/${this.caseId}/summary`);
    this.showSign();
  }

  async reopen() {
    const sure = await confirmed({ title: "Reopen this case?", words: "It can then be read and changed again. The sign-off stays in the log.", yes: "Reopen" });
    if (sure) await this.act(null, () => send("DELETE", `/cases/${this.caseId}/sign-off`, undefined, { seen: this.item.etag }), "The case is open again.");
  }

  openRename() {
    const { name, subject } = find("rename-form").elements;
    [name.value, subject.value] = [this.item.name, this.item.subject ?? ""];
    blame(find("rename-form"), null);
    find("rename").showModal();
  }

  async rename(event) {
    event.preventDefault();
    const { name, subject } = event.target.elements;
    await this.act(find("rename"), () => send("PATCH", `/cases/${this.caseId}`, { name: name.value.trim(), subject: subject.value.trim() }), "");
  }

  async act(dialog, work, words) {
    try {
      await work();
      dialog?.close();
      if (words) note(words);
      this.dispatchEvent(new Event("done"));
    } catch (error) {
      if (dialog?.id === "sign" && outdated(error)) await this.showChange(error);
      if (dialog && error.status !== 401) blame(dialog, error);
      else complain(error);
      if (!dialog && outdated(error)) this.dispatchEvent(new Event("done"));
    }
  }

  async remove() {
    try {
      this.show(await get(`/cases/${this.caseId}`));
    } catch (error) {
      return void complain(error);
    }
    const sure = await confirmed({ title: "Delete this case?", words: `“${this.item.name}” goes with its images, cells and readings. The log keeps that it was there. This cannot be taken back.`, yes: "Delete it" });
    if (!sure) return;
    try {
      await send("DELETE", `/cases/${this.caseId}`, undefined, { seen: this.item.etag });
      location.assign("/");
    } catch (error) {
      complain(error);
    }
  }

  async openImages() {
    try {
      const { images, total } = await get(`/cases/${this.caseId}/images?limit=${LISTED}`);
      const rest = total - images.length;
      const rows = images.map((image) => this.imageRow(image));
      if (rest || !total) rows.push(element("li", { class: "soft" }, rest ? `and ${count(rest, "more image", "more images")}` : "No images yet."));
      find("image-list").replaceChildren(...rows);
      find("images").showModal();
    } catch (error) {
      complain(error);
    }
  }

  imageRow(image) {
    const open = element("button", { type: "button", class: "link", onclick: () => (find("images").close(), this.dispatchEvent(new CustomEvent("field", { detail: image.id }))) }, image.name);
    const drop = element("button", { type: "button", class: "quiet icon-only", "aria-label": `Delete ${image.name}`, onclick: () => this.removeImage(image) }, icon("bin"));
    const picture = element("img", { alt: "", loading: "lazy", src: image.kind === "slide" ? overview(image) : address(`/images/${image.id}/picture?side=96`) });
    const again = image.again ? `judged again, ${count(image.again.changed, "cell")} changed` : "";
    const words = [image.kind, image.scale ? takenWord(image) : "", ...image.notes, again, image.error].filter(Boolean).join(", ");
    const free = !this.signed && this.item.may?.delete !== false;
    return element("li", {}, picture, element("div", {}, image.kind === "crop" ? element("span", {}, image.name) : open, element("span", { class: "soft" }, words)), free ? drop : null);
  }

  async removeImage(image) {
    const sure = await confirmed({ title: "Delete this image?", words: `${image.name} goes with its cells and their readings.`, yes: "Delete it" });
    if (!sure) return;
    await this.act(null, () => send("DELETE", `/images/${image.id}`, undefined, { seen: image.etag }), "");
    find("images").close();
  }
}
