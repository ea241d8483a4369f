// What people say about cells: shown at once, saved in order, taken back if it could not be saved.

import { send } from "./api.js";

export class Reviews extends EventTarget {
  constructor({ caseId, list, reader }) {
    super();
    Object.assign(this, { caseId, list, reader, line: Promise.resolve(), waiting: 0 });
  }

  say(cell, label) {
    const before = cell.review ?? null;
    this.list.replace({ id: cell.id, review: { label, reader: this.reader, time: new Date().toISOString() } });
    return this.next(async () => {
      try {
        this.list.replace(await send("POST", `/cells/${cell.id}/reviews`, { label }));
      } catch (error) {
        this.list.replace({ id: cell.id, review: before });
        throw error;
      }
    });
  }

  /** Take back this reader's last word; resolves to the cell, or null where there is none. */
  undo() {
    return this.next(async () => {
      const { cell } = await send("POST", `/cases/${this.caseId}/undo`);
      if (cell) this.list.replace(cell);
      return cell;
    });
  }

  /** One after the other: what was said last must be saved last. */
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
