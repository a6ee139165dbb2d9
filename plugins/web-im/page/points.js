// The access points: where this service can be reached from here, best first.
//
// The list is asked for again when its time is over, and the last one is kept: a
// page that reaches nothing offers the others as links.

const AGAIN_MS = 10000;

export class AccessPoints {
  #path;
  #keep;
  #changed;
  list;

  /** `changed(list)` is called with `{region, points, ttl}` whenever it was asked. */
  constructor(path, keep, changed) {
    this.#path = path;
    this.#keep = keep;
    this.#changed = changed;
    this.list = keep.load("points") ?? null;
  }

  async run() {
    if (!this.#path) return;
    if (this.list) this.#changed(this.list);
    for (;;) {
      let wait = AGAIN_MS;
      try {
        const answer = await fetch(this.#path, { cache: "no-store" });
        if (answer.ok) {
          this.list = await answer.json();
          this.#keep.save("points", this.list);
          this.#changed(this.list);
          wait = this.list.ttl * 1000;
        }
      } catch {
        // The list before holds until another can be had.
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  /** The others, for when this one cannot be reached. */
  others() {
    return (this.list?.points ?? []).filter((point) => point !== location.host);
  }
}
