// An edge function to begin with: the web's fetch event, answered through
// `wasi:http/incoming-handler`. Any host of that interface runs it.

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  if (request.method !== "GET" && request.method !== "POST") {
    return new Response(null, { status: 405, headers: { allow: "GET, POST" } });
  }
  const url = new URL(request.url);
  const name = url.searchParams.get("name") ?? "stranger";
  const body = request.method === "POST" ? await request.text() : undefined;
  return Response.json({ greeting: `hello, ${name}`, said: body, address: request.headers.get("x-real-ip") });
}
