// Login by QR code: the page shows a code, a phone that is logged in confirms it,
// the page gets its session. The secret that ties the code to this browser is a
// cookie no script sees.

const POLL_MS = 1000;

/**
 * Runs until a phone has confirmed; gives `{user, session, expires}`. `show` is
 * called with each new code: `{token, url, picture, expiresAt}`, `fail` with what
 * keeps it from being shown. Ends early when `signal` is aborted.
 */
export async function logIn(path, show, fail, signal) {
  while (!signal.aborted) {
    try {
      const code = await start(path, signal);
      show(code);
      const confirmed = await confirmation(path, code, signal);
      if (confirmed) return confirmed;
    } catch (error) {
      if (signal.aborted) return null;
      fail(error.message);
      await pause(3 * POLL_MS, signal);
    }
  }
  return null;
}

async function start(path, signal) {
  const answer = await fetch(`${path}/start`, { method: "POST", signal, cache: "no-store" });
  if (!answer.ok) throw new Error(`The login service answers with ${answer.status}.`);
  const { token, url, picture, expires_in: seconds } = await answer.json();
  return { token, url, picture, expiresAt: Date.now() + seconds * 1000 };
}

/** The session once it is confirmed; null when the code has expired before. */
async function confirmation(path, code, signal) {
  const url = `${path}/poll?token=${encodeURIComponent(code.token)}`;
  while (Date.now() < code.expiresAt) {
    const answer = await fetch(url, { signal, cache: "no-store" });
    if (answer.status === 200) return await answer.json();
    if (answer.status === 410 || answer.status === 400) return null;
    await pause(POLL_MS, signal);
  }
  return null;
}

function pause(time, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
