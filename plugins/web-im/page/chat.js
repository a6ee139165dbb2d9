// Conversations and messages: what the page knows, and what it says to the service.
//
// The service knows a message again by the number this device gave it, so a message
// without an answer is sent again without being doubled; a message from others is
// known by its id. Draws nothing: `view` is told what changed.

import { compareIds, conversationId, risingIds } from "./ids.js";

const COMMAND = {
  heartbeat: 0x0001,
  heartbeatReply: 0x0002,
  error: 0x00ff,
  login: 0x0101,
  loginReply: 0x0102,
  send: 0x0301,
  sendReply: 0x0302,
  push: 0x0310,
  acknowledge: 0x0311,
  history: 0x0320,
  historyReply: 0x0321,
  conversations: 0x0330,
  conversationsReply: 0x0331,
};

/** How long a message waits for its answer before it is sent again. */
const ANSWER_MS = 10000;
/** How long a heartbeat may take before the connection counts as dead. */
const HEARTBEAT_ANSWER_MS = 8000;
/** After how long a list that could not be had is asked for again. */
const ASK_AGAIN_MS = 2000;
/** Messages of one page of a history. */
const HISTORY_PAGE = 50;
/** Bytes of a message's text; the service takes frames of 64 KiB. */
export const TEXT_BYTES_MAX = 8000;

export class Chat {
  /** By the other user's id: `{peer, messages, unread, isLoaded}`. */
  conversations = new Map();
  #identity;
  #link;
  #hooks;
  #keep;
  #nextId;
  #outbox;
  #line = null;
  #beat = null;
  #timers = new Map();
  #isLoggedIn = false;
  /** The message that was sent and has no answer yet. */
  #asked = null;

  /**
   * `identity` is `{user, session, device}`, `keep` loads and saves what a reload
   * needs. Hooks: `changed(peer)`, `listed()`, `told(kind, text)` for what happened,
   * `refused(text)` when the login is not taken.
   */
  constructor(identity, keep, hooks) {
    this.#identity = identity;
    this.#keep = keep;
    this.#hooks = hooks;
    this.#outbox = keep.load("outbox") ?? [];
    this.#nextId = risingIds(this.#outbox.at(-1)?.clientId ?? 0);
    for (const { peer, clientId, text, at } of this.#outbox) {
      this.#conversation(peer).messages.push({ clientId, from: identity.user, text, at, state: "sending" });
    }
  }

  get user() {
    return this.#identity.user;
  }

  /** The link this speaks by. */
  use(link) {
    this.#link = link;
  }

  /** The first message of a session. */
  login() {
    const { user, session, device } = this.#identity;
    const body = { userId: user, token: session, device, terminal: "TERMINAL_WEB", appVersion: "web-im" };
    return { cmd: COMMAND.login, id: "login", body };
  }

  /** Sends a text; it is shown at once. */
  send(peer, text) {
    const clientId = this.#nextId();
    const at = Date.now();
    this.#conversation(peer).messages.push({ clientId, from: this.user, text, at, state: "sending" });
    this.#outbox.push({ peer, clientId, text, at });
    this.#keep.save("outbox", this.#outbox);
    this.#hooks.changed(peer);
    this.#hooks.listed();
    this.#pump();
  }

  /** A conversation is looked at: its messages are loaded and count as read. */
  open(peer) {
    const conversation = this.#conversation(peer);
    conversation.unread = 0;
    if (!conversation.isLoaded && this.#isLoggedIn) this.#askHistory(peer);
    this.#hooks.listed();
    return conversation;
  }

  /** A session is there; a new one has nothing but the login before it. */
  opened(isNew) {
    this.#isLoggedIn = !isNew;
    if (!isNew) this.#begin();
  }

  /** The session is gone. */
  ended() {
    this.#isLoggedIn = false;
    this.#rest();
  }

  /** The server had to drop messages that were waiting for this page: the history has them. */
  missed() {
    for (const conversation of this.conversations.values()) conversation.isLoaded = false;
    if (this.#isLoggedIn) this.#reload();
  }

  /** Stops its clocks. */
  stop() {
    this.ended();
  }

  /** Takes what the service says. */
  take(message) {
    const body = message.body ?? {};
    if (message.error || message.cmd === COMMAND.error) {
      this.#failed(message.id ?? "", message.error ?? errorOf(body));
      return;
    }
    switch (message.cmd) {
      case COMMAND.loginReply:
        this.#loggedIn(body);
        break;
      case COMMAND.heartbeatReply:
        clearTimeout(this.#timers.get("beat"));
        this.#sawLine(body.line);
        break;
      case COMMAND.sendReply:
        this.#sent(body);
        break;
      case COMMAND.push:
        this.#pushed(body);
        break;
      case COMMAND.historyReply:
        this.#loaded(message.id ?? "", body);
        break;
      case COMMAND.conversationsReply:
        this.#listed(body.conversations ?? []);
        break;
    }
  }

  // ---- the session ---------------------------------------------------------

  #loggedIn(reply) {
    this.#isLoggedIn = true;
    this.#hooks.loggedIn(reply);
    this.#sawLine(reply.line);
    this.#begin();
  }

  /** What is done whenever a way is there: ask what was missed, say what has no answer. */
  #begin() {
    this.#reload();
    this.#asked = null;
    this.#pump();
    clearInterval(this.#beat);
    this.#beat = setInterval(() => this.#heartbeat(), this.#identity.heartbeat * 1000);
    this.#heartbeat();
  }

  #rest() {
    clearInterval(this.#beat);
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #reload() {
    this.#link.send({ cmd: COMMAND.conversations, id: "conversations", body: { limit: 100 } });
    for (const [peer, conversation] of this.conversations) {
      if (!conversation.isLoaded) this.#askHistory(peer);
    }
  }

  #heartbeat() {
    clearTimeout(this.#timers.get("beat"));
    this.#link.send({ cmd: COMMAND.heartbeat, id: "beat", body: { clientTimeMs: String(Date.now()) } });
    const dead = () => {
      this.#hooks.told("warn", "No answer from the service; connecting again.");
      this.#link.reset();
    };
    this.#timers.set("beat", setTimeout(dead, HEARTBEAT_ANSWER_MS));
  }

  #sawLine(line) {
    if (!line || line === this.#line) return;
    if (this.#line) {
      this.#hooks.told("warn", `The line “${this.#line}” was left; the chat goes on over “${line}”.`);
    }
    this.#line = line;
    this.#hooks.line(line);
  }

  #failed(id, error) {
    if (id === "login") {
      if ([401, 403].includes(error.status)) this.#hooks.refused(error.message);
      else this.#link.reset();
      return;
    }
    if (error.status === 401) {
      // The page was loaded anew before its session had logged in.
      this.#link.renew();
      return;
    }
    if (id === "conversations" || id.startsWith("history ")) {
      const again = () => this.#isLoggedIn && this.#reload();
      clearTimeout(this.#timers.get("reload"));
      this.#timers.set("reload", setTimeout(again, ASK_AGAIN_MS));
      return;
    }
    const item = this.#outbox.find((item) => id === `send ${item.clientId}`);
    if (!item) return;
    const wait = error.retry_after_ms ?? error.retryAfterMs ?? 0;
    const again = [429, 502, 503, 504].includes(error.status);
    if (!again) {
      this.#drop(item, (message) => (message.state = "failed"));
      this.#hooks.told("error", `A message was not taken: ${error.message}`);
      return;
    }
    this.#hooks.told(
      "warn",
      error.status === 429
        ? "Too many messages at once; the rest goes a little later."
        : "The line broke under a message; it is sent again, and arrives once.",
    );
    this.#again(Math.max(wait, 300));
    // Which line it is now is worth knowing soon.
    this.#heartbeat();
  }

  // ---- messages ------------------------------------------------------------

  /** Sends the first of what waits. The next goes when it has its answer: whatever
   *  has to be sent again, the others get all in the order it was written. */
  #pump() {
    const first = this.#outbox[0];
    if (!first || !this.#isLoggedIn || this.#asked === first.clientId) return;
    this.#asked = first.clientId;
    const { peer, clientId, text } = first;
    const body = { to: peer, clientMessageId: clientId, type: "CONTENT_TYPE_TEXT", text };
    this.#link.send({ cmd: COMMAND.send, id: `send ${clientId}`, body });
    this.#again(ANSWER_MS);
  }

  /** Sends the first again if it has no answer by then. */
  #again(time) {
    clearTimeout(this.#timers.get("send"));
    const again = () => {
      this.#asked = null;
      this.#pump();
    };
    this.#timers.set("send", setTimeout(again, time));
  }

  #sent(reply) {
    const item = this.#outbox.find((item) => item.clientId === reply.clientMessageId);
    if (!item) return;
    const conversation = this.#conversation(item.peer);
    const known = conversation.messages.find((message) => message.id === reply.messageId);
    this.#drop(item, (message) => {
      if (known) {
        // The history was quicker.
        conversation.messages.splice(conversation.messages.indexOf(message), 1);
        return;
      }
      message.id = reply.messageId;
      message.at = Number(reply.sentAtMs ?? message.at);
      message.state = reply.pushed > 0 ? "delivered" : "sent";
    });
  }

  /** Takes a message out of what waits for an answer. */
  #drop(item, change) {
    this.#outbox = this.#outbox.filter((other) => other.clientId !== item.clientId);
    this.#keep.save("outbox", this.#outbox);
    const { messages } = this.#conversation(item.peer);
    const message = messages.find((message) => message.clientId === item.clientId);
    if (message) change(message);
    messages.sort(inOrder);
    this.#hooks.changed(item.peer);
    this.#hooks.listed();
    this.#pump();
  }

  #pushed(body) {
    const peer = body.from ?? 0;
    const isNew = this.#add(peer, body);
    // Everything up to this one is here; the service need not push it again.
    this.#link.send({ cmd: COMMAND.acknowledge, id: "ack", body: { messageId: body.messageId } });
    if (!isNew) return;
    const conversation = this.#conversation(peer);
    if (!this.#hooks.arrived(peer, body.text ?? "")) conversation.unread += 1;
    this.#hooks.changed(peer);
    this.#hooks.listed();
  }

  #loaded(id, body) {
    const peer = Number(id.split(" ")[1]);
    if (!peer) return;
    for (const message of body.messages ?? []) this.#add(peer, message);
    this.#conversation(peer).isLoaded = true;
    this.#hooks.changed(peer);
    this.#hooks.listed();
  }

  #listed(list) {
    for (const { peer, last } of list) {
      const conversation = this.#conversation(peer ?? 0);
      if (last && this.#add(peer ?? 0, last)) {
        this.#hooks.changed(peer ?? 0);
      }
      if (!conversation.isLoaded) this.#askHistory(peer ?? 0);
    }
    this.#hooks.listed();
  }

  #askHistory(peer) {
    const body = { conversationId: conversationId(this.user, peer), limit: HISTORY_PAGE };
    this.#link.send({ cmd: COMMAND.history, id: `history ${peer}`, body });
  }

  /** Adds a message of the service's unless it is there; says whether it was new. */
  #add(peer, { messageId, from, text, sentAtMs }) {
    const { messages } = this.#conversation(peer);
    if (messages.some((message) => message.id === messageId)) return false;
    const isOwn = (from ?? 0) === this.user;
    const message = { id: messageId, from: from ?? 0, text: text ?? "", at: Number(sentAtMs ?? 0) };
    message.state = isOwn ? "sent" : "";
    messages.push(message);
    messages.sort(inOrder);
    return true;
  }

  #conversation(peer) {
    let found = this.conversations.get(peer);
    if (!found) {
      found = { peer, messages: [], unread: 0, isLoaded: false };
      this.conversations.set(peer, found);
    }
    return found;
  }
}

/** By id; what has none yet comes last, in the order it was written. */
function inOrder(one, other) {
  if (one.id && other.id) return compareIds(one.id, other.id);
  if (one.id || other.id) return one.id ? -1 : 1;
  return compareIds(one.clientId ?? "0", other.clientId ?? "0");
}

/** An error frame's body as the page speaks of errors. */
function errorOf({ code, text, retryAfterMs }) {
  const statuses = {
    ERROR_CODE_NOT_LOGGED_IN: 401,
    ERROR_CODE_BAD_CREDENTIALS: 401,
    ERROR_CODE_FORBIDDEN: 403,
    ERROR_CODE_RATE_LIMITED: 429,
    ERROR_CODE_UNAVAILABLE: 503,
  };
  return { status: statuses[code] ?? 400, message: text ?? "refused", retryAfterMs: retryAfterMs ?? 0 };
}
