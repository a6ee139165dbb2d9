// What is seen. Texts of others are only ever set as text.

import { userId } from "./ids.js";
import { TEXT_BYTES_MAX } from "./chat.js";

/** Lines kept under "What happened". */
const EVENTS_MAX = 50;
/** How long a notice stands above the messages; the list keeps it. */
const NOTICE_MS = 15000;
const STATES = { sending: "Sending…", sent: "Sent", delivered: "Delivered", failed: "Not sent", "": "" };

const byId = (id) => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function nameOf(peer) {
  return peer === 0 ? "Service" : `User ${peer}`;
}

function clock(at) {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export class View {
  #title = "Chat";
  #peer = null;
  #nodes = new WeakMap();
  #countdown = null;
  #fading = null;

  /** `on` has `open(peer)`, `send(peer, text)`, `close()`, `retry()`, `leave()`. */
  constructor(on) {
    byId("leave").addEventListener("click", () => on.leave());
    byId("retry").addEventListener("click", () => on.retry());
    byId("back").addEventListener("click", () => this.#closeTalk(on));
    byId("new").addEventListener("submit", (event) => {
      event.preventDefault();
      const peer = userId(byId("peer").value);
      byId("peer-problem").textContent = peer ? "" : "A user number is a whole number above zero.";
      if (!peer) return byId("peer").focus();
      byId("peer").value = "";
      on.open(peer);
    });
    byId("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(on);
    });
    byId("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#submit(on);
      } else if (event.key === "Escape") {
        this.#closeTalk(on);
      }
    });
  }

  #submit(on) {
    const text = byId("text").value.trim();
    if (!text || this.#peer === null) return;
    if (new TextEncoder().encode(text).length > TEXT_BYTES_MAX) {
      return this.notice("error", `A message has at most ${TEXT_BYTES_MAX} bytes.`);
    }
    byId("text").value = "";
    on.send(this.#peer, text);
  }

  #closeTalk(on) {
    const last = document.querySelector(`#list button[data-peer="${this.#peer}"]`);
    this.#peer = null;
    byId("chat").classList.remove("has-peer");
    byId("compose").hidden = true;
    byId("peer-name").textContent = "Choose a conversation";
    byId("messages").replaceChildren();
    on.close();
    (last ?? byId("peer")).focus();
  }

  title(text) {
    this.#title = text;
    byId("title").textContent = text;
    document.title = text;
  }

  // ---- login ---------------------------------------------------------------

  showLogin(hint) {
    byId("login").hidden = false;
    byId("chat").hidden = true;
    byId("leave").hidden = true;
    byId("hint").dataset.hint = hint;
    this.state("start", "Not logged in");
  }

  showCode({ token, picture, expiresAt }) {
    // A picture as an image: whatever were in it, it would not run.
    byId("picture").src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(picture)}`;
    byId("code").textContent = token;
    const { hint } = byId("hint").dataset;
    byId("hint").hidden = !hint;
    byId("hint").textContent = hint.replaceAll("{code}", token);
    this.loginNotice("");
    clearInterval(this.#countdown);
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((expiresAt - Date.now()) / 1000));
      byId("remaining").textContent = `A new code comes in ${seconds} s.`;
    };
    tick();
    this.#countdown = setInterval(tick, 1000);
  }

  loginNotice(text) {
    byId("login-notice").hidden = !text;
    byId("login-notice").textContent = text;
  }

  showChat(user) {
    clearInterval(this.#countdown);
    byId("login").hidden = true;
    byId("chat").hidden = false;
    byId("leave").hidden = false;
    byId("who").textContent = `You are user ${user}`;
    byId("peer").focus();
  }

  // ---- the connection ------------------------------------------------------

  state(phase, text, { canRetry = false } = {}) {
    byId("state").dataset.phase = phase;
    byId("state-text").textContent = text;
    byId("retry").hidden = !canRetry;
  }

  /** Says what happened, in the list of all that did and where the user looks. */
  notice(kind, text) {
    const line = element("li");
    line.dataset.kind = kind;
    line.append(element("time", "", new Date().toLocaleTimeString()), ` ${text}`);
    const events = byId("events");
    events.prepend(line);
    while (events.children.length > EVENTS_MAX) events.lastChild.remove();
    byId("notice").dataset.kind = kind;
    byId("notice").textContent = text;
    clearTimeout(this.#fading);
    this.#fading = setTimeout(() => (byId("notice").textContent = ""), NOTICE_MS);
  }

  points({ region, points, ttl }) {
    byId("points").hidden = false;
    byId("points-region").textContent = `Region ${region}, good for ${ttl} s, the best first`;
    const lines = points.map((point) => {
      const line = element("li");
      if (point === location.host) {
        line.textContent = point;
        line.setAttribute("aria-current", "true");
      } else {
        line.append(this.link(point));
      }
      return line;
    });
    byId("points-list").replaceChildren(...lines);
  }

  /** The same page at another access point. */
  link(point) {
    const link = element("a", "", point);
    link.href = `${location.protocol}//${point}${location.pathname}`;
    link.rel = "noreferrer";
    return link;
  }

  // ---- conversations -------------------------------------------------------

  list(conversations) {
    const newest = (conversation) => conversation.messages.at(-1)?.at ?? 0;
    const sorted = [...conversations].sort((one, other) => newest(other) - newest(one));
    byId("list-empty").hidden = sorted.length > 0;
    const had = document.activeElement?.dataset?.peer;
    byId("list").replaceChildren(...sorted.map((conversation) => this.#entry(conversation)));
    // Redrawing must not take the focus away.
    if (had) document.querySelector(`#list button[data-peer="${had}"]`)?.focus();
    const unread = sorted.reduce((sum, conversation) => sum + conversation.unread, 0);
    document.title = unread ? `(${unread}) ${this.#title}` : this.#title;
  }

  #entry({ peer, messages, unread }) {
    const button = element("button");
    button.type = "button";
    button.dataset.peer = peer;
    button.setAttribute("aria-current", String(peer === this.#peer));
    const face = element("span", "face", peer === 0 ? "!" : String(peer).slice(-2));
    face.setAttribute("aria-hidden", "true");
    button.append(face, element("span", "name", nameOf(peer)));
    if (unread) {
      const count = element("span", "count", String(unread));
      count.setAttribute("aria-label", `${unread} unread`);
      button.append(count);
    }
    button.append(element("span", "last", messages.at(-1)?.text ?? ""));
    const line = element("li");
    line.append(button);
    return line;
  }

  /** Opens a conversation. */
  talk(conversation, user) {
    this.#peer = conversation.peer;
    byId("chat").classList.add("has-peer");
    byId("peer-name").textContent = nameOf(conversation.peer);
    byId("compose").hidden = conversation.peer === 0;
    byId("messages").replaceChildren();
    this.messages(conversation, user);
    byId("text").focus();
  }

  /** Draws what changed of the open conversation: what is there stays, so that a
   *  screen reader reads the new alone. */
  messages({ messages }, user) {
    const list = byId("messages");
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    messages.forEach((message, at) => {
      let node = this.#nodes.get(message);
      if (!node) {
        node = this.#message(message, message.from === user);
        this.#nodes.set(message, node);
      }
      const key = `${message.id ?? ""} ${message.state} ${message.at}`;
      if (node.dataset.key !== key) {
        node.dataset.key = key;
        node.dataset.id = message.id ?? "";
        node.dataset.state = message.state;
        node.querySelector("time").textContent = clock(message.at);
        node.querySelector(".delivery").textContent = STATES[message.state];
      }
      if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
    });
    while (list.children.length > messages.length) list.lastChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  #message({ from, text }, isOwn) {
    const node = element("li", isOwn ? "message own" : "message");
    const who = element("span", "hidden", isOwn ? "You: " : `${nameOf(from)}: `);
    const body = element("p", "text", text);
    const meta = element("p", "meta");
    meta.append(element("time"), element("span", "delivery"));
    node.append(who, body, meta);
    return node;
  }
}
