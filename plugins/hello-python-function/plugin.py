"""An edge function to begin with, through wasi:http/incoming-handler.

Any host of that interface runs it.
"""

import json
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Get,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

# The most bytes one write may have, by the interface.
WRITE_MAX = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        if not isinstance(request.method(), Method_Get):
            send(response_out, 405, [("allow", b"GET")], b"")
            return
        query = parse_qs(urlsplit(request.path_with_query() or "/").query)
        address = request.headers().get("x-real-ip")
        greeting = {
            "greeting": "hello, " + query.get("name", ["stranger"])[0],
            "address": address[0].decode() if address else None,
        }
        send(response_out, 200, [("content-type", b"application/json")], json.dumps(greeting).encode())


def send(out: ResponseOutparam, status: int, headers: list[tuple[str, bytes]], body: bytes) -> None:
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    outgoing = response.body()
    ResponseOutparam.set(out, Ok(response))
    with outgoing.write() as stream:
        for start in range(0, len(body), WRITE_MAX):
            stream.blocking_write_and_flush(body[start : start + WRITE_MAX])
    OutgoingBody.finish(outgoing, None)
