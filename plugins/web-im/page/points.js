// The access points: where this service can be reached from here, best first.
//
// The list is asked for again when its time is over, and the last one is kept. A
// page whose own access point does not answer goes to those of the others that its
// configuration allows, and names all of them.

const AGAIN_MS = 10000;

export class AccessPoints {
  #path;
  #allowed;
  #keep;
  #changed;
  list;

  /** `allowed` are the hosts the page may go to, `host:port` or `*.domain:port`.
   *  `changed(list)` is called with `{region, points, ttl}` whenever it was asked. */
  constructor(path, allowed, keep, changed) {
    this.#path = path;
    this.#allowed = allowed;
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

  /** Where the chat may go on: the page's own origin, then the others in order. */
  bases() {
    const fits = (point, host) => (host.startsWith("*.") ? point.endsWith(host.slice(1)) : point === host);
    const others = this.others().filter((point) => this.#allowed.some((host) => fits(point, host)));
    return [location.origin, ...others.map((point) => `${location.protocol}//${point}`)];
  }

  /** The others, for when this one cannot be reached. */
  others() {
    return (this.list?.points ?? []).filter((point) => point !== location.host);
  }
}
