// What the scenarios share: a browser, people with pages, and questions to the test
// that started this script.
//
// The test holds the gateway, the service, the phones; a question is a line of JSON
// on standard output, its answer a line on standard input.

import assert from "node:assert/strict";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

/** How long anything may take before a scenario fails. */
const DEADLINE_MS = 20000;

const { PLAYWRIGHT_CORE, CHROMIUM, PAGE_URL, PICTURES } = process.env;
const { chromium } = await import(pathToFileURL(PLAYWRIGHT_CORE));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test for something and waits until it is done. */
export async function ask(question) {
  process.stdout.write(`${JSON.stringify(question)}\n`);
  const { value, done } = await lines.next();
  assert(!done, "the test answers");
  return JSON.parse(value);
}

/** Waits until `condition` gives something that is true. */
export async function eventually(what, condition) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert(Date.now() < end, `not within ${DEADLINE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs a scenario with a browser of its own. */
export async function withBrowser(scenario) {
  // The library gives the browser a new profile, and removes it in the end.
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const faults = [];
  try {
    await scenario(new Stage(browser, faults));
    assert.deepEqual(faults, [], "errors of the page's scripts");
  } finally {
    await browser.close();
  }
}

/** Where people come on with pages of their own. */
class Stage {
  #browser;
  #faults;

  constructor(browser, faults) {
    this.#browser = browser;
    this.#faults = faults;
  }

  /** Somebody with a browser context of their own, at the login. */
  async person(name, options = {}) {
    const context = await this.#browser.newContext({
      ignoreHTTPSErrors: true,
      viewport: { width: 1000, height: 640 },
      locale: "en-GB",
      ...options,
    });
    context.setDefaultTimeout(DEADLINE_MS);
    const page = await context.newPage();
    page.on("pageerror", (error) => this.#faults.push(`${name}: ${error.message}`));
    // Anything the policy forbids is told on the console.
    page.on("console", (message) => {
      const text = message.text();
      if (text.includes("Content Security Policy")) this.#faults.push(`${name}: ${text}`);
    });
    await page.goto(PAGE_URL);
    return new Person(name, page);
  }
}

/** Somebody who chats by the page. */
export class Person {
  constructor(name, page) {
    this.name = name;
    this.page = page;
  }

  /** Logs in as `user`: the phone of that user confirms the code in the picture. */
  async logIn(user) {
    await this.page.locator("#picture[src^='data:image/svg+xml']").waitFor();
    const code = await this.page.locator("#code").textContent();
    await ask({ ask: "confirm", user, code });
    await this.page.locator("#chat").waitFor();
    await this.connected();
  }

  /** Waits until the page is connected, by this way if one is named. */
  async connected(way = "") {
    await this.page.locator("#state[data-phase='online']", { hasText: way }).waitFor();
  }

  /** Opens the conversation with a user. */
  async open(peer) {
    const known = this.page.locator(`#list button[data-peer='${peer}']`);
    if (await known.count()) {
      await known.click();
    } else {
      await this.page.getByLabel("New chat with user number").fill(String(peer));
      await this.page.getByRole("button", { name: "Open" }).click();
    }
    await this.page.getByRole("heading", { name: `User ${peer}` }).waitFor();
  }

  /** Sends a text as a person does. */
  async say(text) {
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.keyboard.press("Enter");
  }

  /** Texts in the open conversation. */
  texts() {
    return this.page.locator("#messages .text").allTextContents();
  }

  /** Waits until the open conversation has a text. */
  async sees(text) {
    await this.page.locator("#messages .text", { hasText: text }).first().waitFor();
  }

  /** Waits until no message waits for its answer any more, and gives their states. */
  async settled() {
    await this.page.waitForFunction(() => !document.querySelector("#messages [data-state='sending']"));
    return this.page.locator("#messages .own").evaluateAll((all) => all.map((one) => one.dataset.state));
  }

  /** Waits until the page has said this under "What happened". */
  async isTold(text) {
    await this.page.locator("#events li", { hasText: text }).first().waitFor({ state: "attached" });
  }

  /** A picture for the documentation, where one is wanted. */
  async picture(name) {
    if (PICTURES) await this.page.screenshot({ path: join(PICTURES, `${name}.png`), animations: "disabled" });
  }
}
