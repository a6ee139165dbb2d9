// Puts the page together: login, link, chat and view.

import { AccessPoints } from "./points.js";
import { Chat } from "./chat.js";
import { Link } from "./link.js";
import { logIn } from "./login.js";
import { randomWord } from "./ids.js";
import { View, nameOf } from "./view.js";

/** What a reload of this tab needs; another tab is another device. */
const keep = {
  load(key) {
    try {
      return JSON.parse(sessionStorage.getItem(`web-im ${key}`));
    } catch {
      return null;
    }
  },
  save(key, value) {
    if (value === null) sessionStorage.removeItem(`web-im ${key}`);
    else sessionStorage.setItem(`web-im ${key}`, JSON.stringify(value));
  },
  clear() {
    for (const key of ["identity", "link", "outbox"]) this.save(key, null);
  },
};

const WAYS = { websocket: "WebSocket", poll: "long poll" };

let config;
let chat = null;
let link = null;
let points = null;
let open = null;
let line = "";
let way = "";
/** The access point that is not the page's own, if the chat is there. */
let point = "";
let countdown = null;
let hasWaited = false;

const view = new View({
  open: show,
  close: () => (open = null),
  send: (peer, text) => chat.send(peer, text),
  retry: () => (way === "replaced" ? restart() : link.hurry()),
  leave: () => {
    link?.stop({ close: true });
    chat?.stop();
    keep.clear();
    location.reload();
  },
});

document.getElementById("list").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-peer]");
  if (button) show(Number(button.dataset.peer));
});

document.addEventListener("visibilitychange", () => {
  // What came while nobody looked is read now.
  if (document.visibilityState === "visible" && open !== null) chat?.open(open);
});

function show(peer) {
  open = peer;
  view.talk(chat.open(peer), chat.user);
  view.list(chat.conversations.values());
}

/** How the link is, in words. */
function tellState(state) {
  clearInterval(countdown);
  switch (state.phase) {
    case "connecting":
      view.state("connecting", "Connecting…");
      break;
    case "online": {
      const before = way;
      way = state.way;
      tellOnline();
      if (before !== way && (before || way === "poll")) {
        const fallen = "WebSocket cannot be had here; the chat goes on by long poll.";
        view.notice(way === "poll" ? "warn" : "good", way === "poll" ? fallen : "Back on WebSocket.");
      } else if (hasWaited) {
        view.notice("good", `Connected again by ${WAYS[way]}.`);
      }
      hasWaited = false;
      break;
    }
    case "waiting":
      if (!hasWaited) view.notice("warn", state.isOffline ? "This device is offline." : "The connection was lost.");
      hasWaited = true;
      tellWait(state);
      countdown = setInterval(() => tellWait(state), 1000);
      break;
    case "replaced":
      way = "replaced";
      view.state("replaced", "Opened in another tab", { canRetry: true });
      view.notice("warn", "This chat was opened in another tab, which goes on with it.");
      break;
  }
}

function tellOnline() {
  const place = point ? ` at ${point}` : "";
  view.state("online", `Connected by ${WAYS[way]}${place}${line ? ` over line “${line}”` : ""}`);
}

function tellWait({ until }) {
  const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  const others = points?.others() ?? [];
  const elsewhere = others.length ? ` Other access points: ${others.join(", ")}.` : "";
  view.state("waiting", `No connection; next try in ${seconds} s.${elsewhere}`, { canRetry: true });
}

const ENDS = {
  gone: "The gateway no longer knew this session; a new one was begun, and nothing is lost.",
  drained: "The gateway is being restarted; a new session was begun.",
  no_upstream: "The service cannot be reached; trying again.",
  move_failed: "The line broke and no other was found; trying again.",
  moved: "A new session is begun there, and nothing is lost.",
};

function begin(identity) {
  const hooks = {
    changed: (peer) => peer === open && view.messages(chat.conversations.get(peer), chat.user),
    listed: () => view.list(chat.conversations.values()),
    told: (kind, text) => view.notice(kind, text),
    loggedIn: () => {},
    line: (name) => {
      line = name;
      if (way) tellOnline();
    },
    // A message is read at once where its conversation is looked at.
    arrived: (peer) => {
      const isSeen = peer === open && document.visibilityState === "visible";
      if (!isSeen) view.notice("good", `New message from ${nameOf(peer)}.`);
      return isSeen;
    },
    refused: (text) => {
      link.stop();
      chat.stop();
      keep.clear();
      enter(`The service did not take the login: ${text}`);
    },
  };
  chat = new Chat({ ...identity, heartbeat: config.heartbeat }, keep, hooks);
  const settings = {
    api: config.api,
    user: identity.user,
    pollWait: config.poll_wait,
    upgradeAfter: config.upgrade_after,
    bases: () => points.bases(),
  };
  link = new Link(settings, {
    login: () => chat.login(),
    message: (message) => chat.take(message),
    opened: (isNew) => chat.opened(isNew),
    ended: (reason) => {
      chat.ended();
      view.notice("warn", ENDS[reason] ?? `The session ended (${reason}); a new one is begun.`);
    },
    gap: () => {
      view.notice("warn", "The gateway could not keep all that came meanwhile; it is read from the history.");
      chat.missed();
    },
    state: tellState,
    moved: (base) => {
      const host = new URL(base).host;
      view.notice("warn", `${point || location.host} does not answer; the chat goes on by ${host}.`);
      point = host === location.host ? "" : host;
    },
    save: (session) => keep.save("link", session),
  });
  chat.use(link);
  view.showChat(identity.user);
  hooks.listed();
  start();
}

function start() {
  const saved = keep.load("link");
  const base = link.start(saved);
  point = base === location.origin ? "" : new URL(base).host;
}

function restart() {
  way = "";
  start();
}

/** Login, then the chat. */
async function enter(notice = "") {
  view.showLogin(config.hint);
  view.loginNotice(notice);
  const session = await logIn(
    config.login,
    (code) => {
      view.showCode(code);
      if (notice) view.loginNotice(notice);
    },
    (text) => view.loginNotice(`The login cannot be reached: ${text}`),
    new AbortController().signal,
  );
  const identity = {
    user: Number(session.user),
    session: session.session,
    expires: session.expires,
    device: `web-${randomWord()}`,
  };
  keep.save("identity", identity);
  begin(identity);
}

async function main() {
  const answer = await fetch("config.json", { cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  config = await answer.json();
  view.title(config.title);
  points = new AccessPoints(config.access_points, config.access_hosts, keep, (list) => view.points(list));
  points.run();
  const identity = keep.load("identity");
  if (identity && identity.expires * 1000 > Date.now()) begin(identity);
  else await enter();
}

main().catch((error) => view.state("waiting", `The page cannot start: ${error.message}. Reload it.`));
