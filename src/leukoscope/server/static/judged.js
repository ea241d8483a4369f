// Which models gave the answers of a case, a new analysis by the one that answers now, and the order that teaches most.

import { send } from "./api.js";
import { find } from "./element.js";
import { complain, confirmed } from "./frame.js";
import { count } from "./words.js";

export class Judged extends EventTarget {
  constructor({ caseId, closing }) {
    super();
    Object.assign(this, { caseId, closing });
    find("again-button").addEventListener("click", () => this.again());
  }

  show({ models = [], present }) {
    const others = models.filter(({ hash }) => hash !== present);
    const named = models.map(({ name, hash, cells }) => `${name} (${hash.slice(0, 8)}): ${count(cells, "cell")}`);
    find("judged-words").textContent = models.length > 1 || others.length ? `Judged by ${named.join("; ")}.` : "";
    const may = others.length && this.closing.item?.may?.sign && this.closing.item?.phase === "free";
    find("again-button").hidden = !may;
  }

  async again() {
    const words = "All images are analysed by the model that answers now. The readers’ answers stay; those of the old model are kept and no longer shown.";
    if (!(await confirmed({ title: "Analyse this case again?", words, yes: "Analyse again" }))) return;
    try {
      await send("POST", `/cases/${this.caseId}/analysis`, undefined, { seen: this.closing.item.etag });
      find("again-button").hidden = true;
      this.dispatchEvent(new Event("begun"));
    } catch (error) {
      complain(error);
    }
  }

  /** Have the server work out in which order the cells teach the model most; false where it refuses. */
  async place() {
    try {
      const { words } = await send("POST", `/cases/${this.caseId}/teaching-order`);
      find("order-words").textContent = words;
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }
}
