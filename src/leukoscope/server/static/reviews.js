// What people say about cells: shown at once, saved in order, taken back if it could not be saved.

import { get, outdated, send } from "./api.js";

const TRIES = 4; // others may change the same case meanwhile

export class Reviews extends EventTarget {
  /** `round` returns the round to which an answer belongs that is given now. */
  constructor({ caseId, list, reader, round = () => "reading" }) {
    super();
    Object.assign(this, { caseId, list, reader, round, line: Promise.resolve(), waiting: 0 });
  }

  say(cell, label) {
    const { review = null, answers = [] } = cell;
    this.showSaid(cell, label);
    return this.next(async () => {
      try {
        this.list.replace(await send("POST", `/cells/${cell.id}/reviews`, { label }, { seen: cell.etag }));
      } catch (error) {
        if (!outdated(error)) {
          this.list.replace({ id: cell.id, review, answers });
          throw Object.assign(error, { unsaved: { cell, label } });
        }
        this.list.replace(error.detail.cell);
        this.dispatchEvent(new CustomEvent("outdated", { detail: { cell: error.detail.cell, label } }));
      }
    });
  }

  /** Say the same of several cells: all of it is saved, or nothing. */
  sayAll(cells, label) {
    for (const cell of cells) this.showSaid(cell, label);
    return this.next(async () => {
      try {
        const saved = await send("POST", `/cases/${this.caseId}/reviews`, { label, cells: cells.map(({ etag }) => etag) });
        for (const cell of saved.cells) this.list.replace(cell);
      } catch (error) {
        for (const { id, review = null, answers = [] } of cells) this.list.replace({ id, review, answers });
        if (!outdated(error)) throw Object.assign(error, { unsaved: { cells, label } });
        for (const cell of error.detail.cells) this.list.replace(cell);
        this.dispatchEvent(new CustomEvent("outdated", { detail: { cells: error.detail.cells, all: cells, label } }));
      }
    });
  }

  showSaid({ id, answers = [] }, label) {
    const said = { label, reader: this.reader, time: new Date().toISOString(), round: this.round(), note: "" };
    const others = answers.filter((each) => each.reader !== said.reader || each.round !== said.round);
    this.list.replace({ id, review: said, answers: [...others, said] });
  }

  /** Take back this reader's last answer, or the last one that was given to several cells; resolves to these cells. */
  undo() {
    return this.next(async () => {
      const cells = await this.takeBack();
      for (const cell of cells) this.list.replace(cell);
      return cells;
    });
  }

  /** One's own last word is the same whatever others read meanwhile, so the newest state is asked for again. */
  async takeBack() {
    let { etag: seen } = await get(`/cases/${this.caseId}`);
    for (let tries = TRIES; ; tries--) {
      try {
        return (await send("POST", `/cases/${this.caseId}/undo`, undefined, { seen })).cells;
      } catch (error) {
        if (!outdated(error) || !tries) throw error;
        seen = error.detail.case.etag;
      }
    }
  }

  /** One after the other: the last answer must be saved last. */
  next(work) {
    this.waiting++;
    const done = this.line.then(work);
    this.line = done
      .catch((error) => this.dispatchEvent(new CustomEvent("failed", { detail: error })))
      .finally(() => {
        this.waiting--;
        this.dispatchEvent(new Event("settled"));
      });
    return done.catch(() => null);
  }
}
