// One session with the IM service, over WebSocket where that works and over long
// polls where it does not.
//
// The session outlives its connections: the server numbers what it sends by a
// cursor, the page numbers what it sends by `n`, and each side drops what it has
// had. So a message is neither lost nor doubled when the way changes. When the
// session itself is gone a new one is made, and the owner logs in again: also at
// another access point, where this one does not answer.

/** How long a WebSocket may take to greet before it counts as blocked. */
const GREETING_MS = 5000;
/** How much longer than its own wait a poll may take. */
const POLL_GRACE_MS = 10000;
/** A session that ends sooner than this does not count as a success. */
const SHORT_LIFE_MS = 5000;
/** Tries at one access point before the next one is. */
const TRIES_HERE = 2;
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 15000;
/** Close code: another connection has taken the session over. */
const REPLACED = 4001;

/**
 * Hooks of the owner:
 * `login()` gives the first message of a new session; `message(m)` takes what the
 * service sends; `opened(isNew)` says that a session is there; `ended(reason)` that
 * it is gone; `gap()` that messages were dropped on the way; `state(s)` how the
 * link is; `moved(base)` that another access point is tried; `save(session)` keeps
 * what a reload needs to go on. `settings.bases()` gives the access points, those
 * of the page first.
 */
export class Link {
  #settings;
  #hooks;
  #session;
  #base;
  #queue = [];
  #inFlight = false;
  #socket = null;
  #abort = null;
  #isPolling = false;
  #isStopped = true;
  #isStale = false;
  #noWebSocketUntil = 0;
  #openedAt = 0;
  #wake = null;

  constructor(settings, hooks) {
    this.#settings = settings;
    this.#hooks = hooks;
  }

  /** Begins, with the session of an earlier visit if there is one; gives the access
   *  point it begins at. */
  start(saved) {
    const bases = this.#settings.bases();
    const isKnown = saved?.base === undefined || bases.includes(saved.base);
    // A session is its gateway's.
    this.#session = isKnown ? (saved ?? null) : null;
    this.#base = this.#session?.base ?? bases[0];
    this.#isStopped = false;
    addEventListener("online", this.hurry);
    addEventListener("offline", this.#lost);
    this.#run();
    return this.#base;
  }

  /** Ends; `close` also ends the session on the server. */
  stop({ close = false } = {}) {
    this.#isStopped = true;
    removeEventListener("online", this.hurry);
    removeEventListener("offline", this.#lost);
    if (close && this.#session) {
      // Nobody waits for the answer: a session that stays ends by itself.
      fetch(this.#url({ session: this.#session.id }), {
        method: "DELETE",
        headers: this.#headers(),
        keepalive: true,
      }).catch(() => {});
      this.#session = null;
      this.#hooks.save(null);
    }
    this.#drop();
    this.hurry();
  }

  /** Sends a message, now or when there is a way. One that still waits under the
   *  same id is replaced, so that nothing piles up while there is no way. */
  send(message) {
    const same = this.#queue.find((item) => item.message.id === message.id);
    if (same?.n === 0) {
      same.message = message;
    } else if (!same || JSON.stringify(same.message) !== JSON.stringify(message)) {
      this.#queue.push({ n: 0, message });
    }
    this.#pump();
  }

  /** Gives up a session that the service does not take anything from. */
  renew() {
    this.#isStale = true;
    this.#drop();
  }

  /** Gives up a connection that seems dead. */
  reset() {
    this.#drop();
  }

  /** Ends a pause. */
  hurry = () => this.#wake?.();

  #lost = () => this.#drop();

  #drop() {
    this.#socket?.close();
    this.#abort?.abort();
  }

  #url(query) {
    const url = new URL(this.#settings.api, this.#base);
    for (const [name, value] of Object.entries(query)) {
      url.searchParams.set(name, value);
    }
    return url;
  }

  #headers() {
    return this.#session ? { "X-Session-Token": this.#session.token } : {};
  }

  // ---- the way -------------------------------------------------------------

  async #run() {
    let failures = 0;
    // Failures at this access point, and how often it was left since one answered.
    let here = 0;
    let moves = 0;
    while (!this.#isStopped) {
      this.#hooks.state({ phase: "connecting", isAgain: failures > 0 });
      let outcome = "unreachable";
      if (Date.now() >= this.#noWebSocketUntil) {
        outcome = await this.#overWebSocket();
      }
      if (outcome === "unreachable" && !this.#isStopped) {
        outcome = await this.#overPolls();
      }
      this.#inFlight = false;
      if (this.#isStale) {
        this.#isStale = false;
        outcome = "gone";
      }
      if (outcome !== "unreachable") {
        here = 0;
        moves = 0;
      }
      switch (outcome) {
        case "upgrade":
          failures = 0;
          break;
        case "broken-after-use":
          // All who were on a node that went away must not come back in one instant.
          failures = 1;
          await this.#pause(failures);
          break;
        case "ended":
          this.#forget();
          failures = Date.now() - this.#openedAt < SHORT_LIFE_MS ? failures + 1 : 0;
          if (failures > 0) await this.#pause(failures);
          break;
        case "gone":
          // That a WebSocket was refused had this reason; it may be tried again.
          this.#noWebSocketUntil = 0;
          this.#forget();
          this.#hooks.ended("gone");
          break;
        case "replaced":
          this.stop();
          this.#hooks.state({ phase: "replaced" });
          break;
        default:
          failures += 1;
          // Without a network no access point answers.
          here += navigator.onLine ? 1 : 0;
          if (here >= TRIES_HERE) {
            here = 0;
            moves += 1;
            // Each of the others is tried at once, then all again with pauses.
            if (this.#moveOn() && moves < this.#settings.bases().length) break;
          }
          await this.#pause(failures);
      }
    }
  }

  /** Goes to the next access point, if there is another. What waits is said again
   *  there, after the login. */
  #moveOn() {
    const bases = this.#settings.bases();
    const next = bases[(bases.indexOf(this.#base) + 1) % bases.length];
    if (next === this.#base || this.#isStopped) return false;
    this.#base = next;
    this.#noWebSocketUntil = 0;
    this.#hooks.moved(next);
    if (this.#session) {
      this.#forget();
      this.#hooks.ended("moved");
    }
    return true;
  }

  async #pause(failures) {
    const most = Math.min(PAUSE_MIN_MS * 2 ** Math.min(failures - 1, 10), PAUSE_MAX_MS);
    const time = most / 2 + (Math.random() * most) / 2;
    if (this.#isStopped) return;
    this.#hooks.state({ phase: "waiting", until: Date.now() + time, isOffline: !navigator.onLine });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, time);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }

  #opened(session, isNew) {
    this.#session = session;
    this.#keep();
    if (isNew) {
      this.#openedAt = Date.now();
      // What was queued was meant for a session that is gone; the owner says again
      // what still matters.
      this.#queue = [];
    }
    this.#inFlight = false;
    this.#hooks.opened(isNew);
  }

  #forget() {
    this.#session = null;
    this.#queue = [];
    this.#keep();
  }

  #keep() {
    this.#hooks.save(this.#session);
  }

  #took(cursor, message) {
    // What came before and was not acknowledged comes again after a change of way.
    if (cursor <= this.#session.cursor) return;
    this.#session.cursor = cursor;
    this.#keep();
    this.#hooks.message(message);
  }

  #over(end) {
    this.#hooks.ended(end.reason);
    return "ended";
  }

  // ---- WebSocket -----------------------------------------------------------

  #overWebSocket() {
    const known = this.#session;
    const query = { session: known ? known.id : "new", user: this.#settings.user };
    const protocols = ["sluice.json"];
    if (known) {
      query.cursor = known.cursor;
      protocols.push(`token.${known.token}`);
    }
    const url = this.#url(query);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return new Promise((resolve) => {
      let outcome = "unreachable";
      let socket;
      try {
        socket = new WebSocket(url, protocols);
      } catch {
        resolve("unreachable");
        return;
      }
      this.#socket = socket;
      const end = () => {
        clearTimeout(greeting);
        if (this.#socket === socket) {
          this.#socket = null;
          this.#isPolling = false;
        }
        resolve(outcome);
      };
      // One that is blocked may never say that it is closed.
      const greeting = setTimeout(() => {
        socket.close();
        end();
      }, GREETING_MS);
      socket.onmessage = (event) => {
        const told = JSON.parse(event.data);
        if (told.session) {
          clearTimeout(greeting);
          outcome = "broken-after-use";
          this.#greeted(told, known);
        } else if (told.end) {
          outcome = this.#over(told.end);
        } else {
          this.#heard(told);
        }
      };
      socket.onclose = (event) => {
        if (event.code === REPLACED) outcome = "replaced";
        end();
      };
    });
  }

  #greeted(told, known) {
    const session = known ?? this.#made(told);
    this.#opened(session, !known);
    this.#hooks.state({ phase: "online", way: "websocket" });
    if (!known) this.#queue.unshift({ n: 0, message: this.#hooks.login() });
    this.#pump();
  }

  #heard(told) {
    if (told.gap) {
      this.#session.cursor = Math.max(this.#session.cursor, told.gap.through);
      this.#hooks.gap(told.gap);
    } else if (told.cursor !== undefined) {
      this.#took(told.cursor, told.message);
      this.#acknowledgeSoon();
    } else if (told.accepted !== undefined) {
      this.#settled(told.accepted);
    } else if (told.refused !== undefined) {
      this.#refused();
    } else if (told.error) {
      // A message that is none: its answer stands in place of a reply.
      const first = this.#queue[0];
      if (first && first.message.id === told.id) this.#settled(first.n);
      this.#hooks.message(told);
    }
  }

  /** One word for all messages of a burst. */
  #acknowledgeSoon() {
    const socket = this.#socket;
    if (!socket || socket.isToAcknowledge) return;
    socket.isToAcknowledge = true;
    queueMicrotask(() => {
      socket.isToAcknowledge = false;
      if (socket.readyState === WebSocket.OPEN && this.#session) {
        socket.send(JSON.stringify({ ack: this.#session.cursor }));
      }
    });
  }

  // ---- long poll -----------------------------------------------------------

  async #overPolls() {
    const abort = new AbortController();
    this.#abort = abort;
    try {
      const isKnown = this.#session !== null;
      if (!isKnown) await this.#create(abort.signal);
      return await this.#poll(abort.signal, isKnown);
    } catch (error) {
      if (error instanceof Answer && error.status === 404 && this.#session) return "gone";
      return this.#isPolling ? "broken-after-use" : "unreachable";
    } finally {
      this.#isPolling = false;
      this.#abort = null;
      abort.abort();
    }
  }

  async #create(signal) {
    const url = this.#url({ session: "new", user: this.#settings.user });
    const body = JSON.stringify(this.#hooks.login());
    const told = await ask(url, { method: "POST", body, signal }, POLL_GRACE_MS);
    this.#opened(this.#made(told), true);
  }

  /** A new session, as the gateway told it. */
  #made({ session, token, cursor }) {
    return { id: session, token, cursor, n: 0, base: this.#base };
  }

  async #poll(signal, isKnown) {
    let hasAnswered = false;
    const upgradeAt = Date.now() + this.#settings.upgradeAfter * 1000;
    while (!this.#isStopped) {
      const session = this.#session;
      // The first answer comes at once: it shows that this way works.
      const wait = hasAnswered ? this.#settings.pollWait : 0;
      const url = this.#url({ session: session.id, cursor: session.cursor, wait: `${wait}s` });
      const batch = await ask(url, { headers: this.#headers(), signal }, wait * 1000 + POLL_GRACE_MS);
      if (!hasAnswered) {
        hasAnswered = true;
        this.#noWebSocketUntil = upgradeAt;
        this.#isPolling = true;
        if (isKnown) this.#opened(session, false);
        this.#hooks.state({ phase: "online", way: "poll" });
        this.#pump();
      }
      if (batch.gap) this.#hooks.gap(batch.gap);
      for (const { cursor, message } of batch.messages) this.#took(cursor, message);
      if (batch.cursor > session.cursor) {
        session.cursor = batch.cursor;
        this.#keep();
      }
      if (batch.end) return this.#over(batch.end);
      if (Date.now() >= upgradeAt) return "upgrade";
    }
    return "stopped";
  }

  async #post(item) {
    const session = this.#session;
    const url = this.#url({ session: session.id, n: item.n });
    const body = JSON.stringify(item.message);
    try {
      await ask(url, { method: "POST", headers: this.#headers(), body }, POLL_GRACE_MS);
      if (this.#session === session) this.#settled(item.n);
    } catch (error) {
      if (this.#session !== session) return;
      if (error instanceof Answer && error.status === 429) {
        this.#refused();
      } else if (error instanceof Answer && error.status < 500 && error.status !== 404) {
        const { status, told } = error;
        this.#settled(item.n);
        this.#hooks.message({ id: item.message.id, error: { status, message: told.error_msg ?? "refused" } });
      } else {
        // It may have arrived: it goes again under its number.
        this.#inFlight = false;
        setTimeout(() => this.#pump(), PAUSE_MIN_MS);
      }
    }
  }

  // ---- what is sent --------------------------------------------------------

  /** Sends the first of the queue; the next goes when it was taken, so that the
   *  numbers arrive in order whatever happens. */
  #pump() {
    const item = this.#queue[0];
    if (!item || this.#inFlight || !this.#session) return;
    const isOpen = this.#socket?.readyState === WebSocket.OPEN;
    if (!isOpen && !this.#isPolling) return;
    if (item.n === 0) {
      this.#session.n += 1;
      item.n = this.#session.n;
      this.#keep();
    }
    this.#inFlight = true;
    if (isOpen) {
      this.#socket.send(JSON.stringify({ n: item.n, message: item.message }));
    } else {
      this.#post(item);
    }
  }

  #settled(n) {
    if (this.#queue[0]?.n !== n) return;
    this.#queue.shift();
    this.#inFlight = false;
    this.#pump();
  }

  /** Too much waits on the server: the message was not taken. */
  #refused() {
    this.#inFlight = false;
    setTimeout(() => this.#pump(), PAUSE_MIN_MS);
  }
}

/** An answer that is not the one that was wanted. */
class Answer extends Error {
  constructor(status, told) {
    super(`status ${status}`);
    this.status = status;
    this.told = told;
  }
}

/** Asks, and gives the JSON of a good answer; throws the rest. */
async function ask(url, options, timeout) {
  const signals = [AbortSignal.timeout(timeout)];
  if (options.signal) signals.push(options.signal);
  const answer = await fetch(url, { cache: "no-store", ...options, signal: AbortSignal.any(signals) });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Answer(answer.status, told);
  return told;
}
