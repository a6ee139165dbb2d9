// Scenarios of the chat page: `node chat.mjs NAME`, started by `tests/web_im.rs`.

import assert from "node:assert/strict";

import { ask, eventually, withBrowser } from "./driver.mjs";

/** A text that would do harm if it were taken for markup. */
const HOSTILE = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script> & "quotes"`;

/** Two browsers and a phone talk with each other; `way` is how the browsers come. */
async function talk(stage, way) {
  const anna = await stage.person("anna");
  await anna.picture("web-im-login");
  await anna.logIn(1);
  const berta = await stage.person("berta");
  await berta.logIn(2);
  await Promise.all([anna.connected(way), berta.connected(way)]);

  await anna.open(2);
  await anna.say("Hello from the browser");
  // The message makes the conversation appear with the other.
  await berta.page.locator("#list button[data-peer='1']", { hasText: "Hello from the browser" }).waitFor();
  assert.equal(await berta.page.locator("#list button[data-peer='1'] .count").textContent(), "1");
  await berta.open(1);
  await berta.sees("Hello from the browser");
  await berta.say("And hello back");
  await anna.sees("And hello back");
  assert.deepEqual(await anna.settled(), ["delivered"], "the other was there to get it");

  // Nobody has logged in as user 9: the service keeps the message.
  await anna.open(9);
  await anna.say("Are you there?");
  assert.deepEqual(await anna.settled(), ["sent"]);

  await ask({ ask: "phone", user: 3 });
  await anna.open(3);
  await anna.say(HOSTILE);
  assert.deepEqual(await ask({ ask: "phone receives", user: 3 }), { from: 1, text: HOSTILE });
  await ask({ ask: "phone sends", user: 3, to: 1, text: HOSTILE });
  await eventually("the phone's message", async () => (await anna.texts()).length === 2);
  assert.deepEqual(await anna.texts(), [HOSTILE, HOSTILE], "shown as it was written");
  assert.notEqual(await anna.page.title(), "broken");
  assert.equal(await anna.page.locator("#messages img, #messages script").count(), 0);
  return { anna, berta };
}

/** Everything said twice a word, in both directions, while `disturb` happens. */
async function talkThrough(anna, berta, disturb) {
  await anna.open(2);
  await berta.open(1);
  const [before, said] = [await anna.texts(), []];
  for (let round = 0; round < 12; round += 1) {
    if (round === 4) await disturb();
    for (const [person, text] of [[anna, `anna ${round}`], [berta, `berta ${round}`]]) {
      said.push(text);
      await person.say(text);
    }
  }
  const isAll = (texts) => said.every((text) => texts.includes(text));
  for (const person of [anna, berta]) {
    await eventually(`all messages with ${person.name}`, async () => isAll(await person.texts()));
    const states = await person.settled();
    assert(!states.includes("failed"), `${person.name}: ${states}`);
    const texts = (await person.texts()).slice(before.length);
    assert.equal(texts.length, said.length, `${person.name} has each once: ${texts}`);
    for (const name of ["anna", "berta"]) {
      const own = texts.filter((text) => text.startsWith(name));
      const inOrder = said.filter((text) => text.startsWith(name));
      assert.deepEqual(own, inOrder, `${person.name} has those of ${name} in order`);
    }
  }
  // Both see the same.
  assert.deepEqual(await anna.texts(), await berta.texts());
}

const scenarios = {
  async websocket(stage) {
    const { anna, berta } = await talk(stage, "WebSocket");
    await anna.page.locator("#points summary").click();
    await anna.page.locator("#points-list li").first().waitFor();
    await anna.open(2);
    await anna.picture("web-im-chat");

    // A reload goes on with the session, and the code in the picture is of no use again.
    await berta.page.reload();
    await berta.connected("WebSocket");
    await berta.open(1);
    await berta.sees("Hello from the browser");
    await anna.say("After the reload");
    await berta.sees("After the reload");
    assert.equal(new Set(await berta.texts()).size, (await berta.texts()).length, "nothing twice");

    // All by keyboard, at the width of a small phone.
    const { page } = anna;
    await page.setViewportSize({ width: 360, height: 640 });
    await page.keyboard.press("Escape");
    const focused = () => page.evaluate(() => document.activeElement?.dataset?.peer);
    assert.equal(await focused(), "2", "the focus goes back to the conversation");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "User 2" }).waitFor();
    await page.keyboard.type("By keyboard alone");
    await page.keyboard.press("Enter");
    await berta.sees("By keyboard alone");
    await anna.settled();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert(width <= 360, `the page is ${width} pixels wide on a screen of 360`);
    await page.emulateMedia({ colorScheme: "dark" });
    await anna.picture("web-im-phone");

    await page.getByRole("button", { name: "Log out" }).click();
    await page.locator("#login").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.getItem("web-im identity")), null);
  },

  async polls(stage) {
    const { anna, berta } = await talk(stage, "long poll");
    await anna.isTold("WebSocket cannot be had here; the chat goes on by long poll.");
    // Once it is not blocked any more the page comes back to it by itself.
    await talkThrough(anna, berta, () => ask({ ask: "unblock" }));
    await anna.isTold("Back on WebSocket.");
    await anna.connected("WebSocket");
  },

  async line(stage) {
    const anna = await stage.person("anna");
    await anna.logIn(1);
    await anna.connected("WebSocket");
    // The gateway takes no WebSocket of this browser.
    const berta = await stage.person("berta", { userAgent: "Polls" });
    await berta.logIn(2);
    await berta.connected("long poll");
    await talkThrough(anna, berta, () => ask({ ask: "cut", line: "leased" }));
    for (const person of [anna, berta]) {
      await person.isTold("The line “leased” was left; the chat goes on over “public”.");
      await person.page.locator("#state", { hasText: "over line “public”" }).waitFor();
    }
    await anna.picture("web-im-line");
  },

  async restart(stage) {
    const anna = await stage.person("anna");
    await anna.logIn(1);
    const berta = await stage.person("berta", { userAgent: "Polls" });
    await berta.logIn(2);
    await berta.connected("long poll");
    await talkThrough(anna, berta, () => ask({ ask: "restart" }));
    for (const person of [anna, berta]) {
      await person.isTold("The connection was lost.");
      await person.isTold("The gateway no longer knew this session; a new one was begun");
      await person.connected();
    }
  },
};

/** The page's own gateway goes away for good; another access point has the chat. */
scenarios.elsewhere = async (stage) => {
  const anna = await stage.person("anna");
  await anna.logIn(1);
  const berta = await stage.person("berta", { userAgent: "Polls" });
  await berta.logIn(2);
  await berta.connected("long poll");
  await talkThrough(anna, berta, () => ask({ ask: "kill" }));
  const { point } = await ask({ ask: "point" });
  for (const person of [anna, berta]) {
    await person.isTold(`does not answer; the chat goes on by ${point}.`);
  }
  await anna.connected(`WebSocket at ${point}`);
  await berta.connected(`long poll at ${point}`);
};

const name = process.argv[2];
const scenario = scenarios[name];
assert(scenario, `there is no scenario ${name}`);
await withBrowser(scenario);
process.exit(0);
