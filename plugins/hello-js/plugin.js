// A filter to begin with: it adds a field to every request on its way to the
// upstream, and answers one path itself. One object for each interface of the
// world `http-filter`; values are as the interface types say: numbers of 64 bits
// are BigInt, lists of bytes Uint8Array, variants { tag, val }.

let greeting = "hello from JavaScript";
let answer;

// Heads come as bytes and a table of pairs, a start and a length. Of a request
// they are method, scheme, authority, path and client, then names and values.
const PATH = 3;

function part(head, pair) {
  const start = head.spans[2 * pair];
  return text(head.bytes.subarray(start, start + head.spans[2 * pair + 1]));
}

function text(bytes) {
  return decodeURIComponent(escape(String.fromCharCode(...bytes)));
}

function bytes(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
}

export const lifecycle = {
  // What is thrown is shown to the operator.
  configure(config) {
    const given = JSON.parse(config || "{}");
    for (const [field, value] of Object.entries(given)) {
      if (!["greeting", "answer"].includes(field)) throw `${field}: unknown field; there are greeting and answer`;
      if (typeof value !== "string") throw `${field}: ${JSON.stringify(value)}: not a string`;
    }
    greeting = given.greeting ?? greeting;
    answer = given.answer;
    return {
      phases: { requestHead: true, requestBody: false, responseHead: false, responseBody: false, frames: false },
      // The host copies no field of the request that is not named here.
      requestFields: ["x-hello"],
      responseFields: [],
      requestBodyMax: 0,
      responseBodyMax: 0,
      overLimit: "deny",
      commands: [],
      timerInterval: 0,
    };
  },
};

export const requestFilter = {
  onHead(exchange, head, end) {
    if (answer !== undefined && part(head, PATH).split("?")[0] === answer) {
      const headers = [{ name: "content-type", value: bytes("text/plain; charset=utf-8") }];
      return { tag: "deny", val: { status: 200, rule: "hello", headers, body: bytes(`${greeting}\n`) } };
    }
    return { tag: "edit", val: [{ tag: "set-field", val: { name: "x-hello", value: bytes(greeting) } }] };
  },
  onBody(exchange, chunk, end) {
    return { tag: "forward" };
  },
};

// The world has responses too; this plugin does not ask for them.
export const responseFilter = {
  onHead(exchange, head, end) {
    return { tag: "accept" };
  },
  onBody(exchange, chunk, end) {
    return { tag: "forward" };
  },
};
