// Numbers of 64 bits, which JSON carries as text because a double cannot.

/** Orders two ids as numbers. */
export function compareIds(one, other) {
  const [a, b] = [BigInt(one), BigInt(other)];
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The conversation of two users: the lower id in the upper half. */
export function conversationId(one, other) {
  const [low, high] = one < other ? [one, other] : [other, one];
  return String((BigInt(low) << 32n) | BigInt(high));
}

/** A maker of ids that rise, also from one visit of the page to the next. */
export function risingIds(last = 0n) {
  let newest = BigInt(last);
  return () => {
    const now = BigInt(Date.now()) * 1000n;
    newest = now > newest ? now : newest + 1n;
    return String(newest);
  };
}

/** A word nobody else has. */
export function randomWord() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A whole positive number that fits a user id; 0 when the text is none. */
export function userId(text) {
  const trimmed = String(text).trim();
  const number = /^[0-9]{1,10}$/.test(trimmed) ? Number(trimmed) : 0;
  return number <= 0xffffffff ? number : 0;
}
