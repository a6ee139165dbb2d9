"""A filter to begin with.

It adds a field to every request on its way to the upstream, and answers one path
itself. One class for each interface of the world `http-filter`.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.lifecycle import Interest, OverLimit, Phases
from wit_world.imports.types import (
    ChunkVerdict_Forward,
    Denial,
    Edit_SetField,
    Field,
    Head,
    HeadVerdict_Accept,
    HeadVerdict_Deny,
    HeadVerdict_Edit,
)

FIELDS = {"greeting", "answer"}
config = {"greeting": "hello from Python"}

# Heads come as bytes and a table of pairs, a start and a length. Of a request they
# are method, scheme, authority, path and client, then names and values.
PATH = 3


def part(head: Head, pair: int) -> str:
    start, length = head.spans[2 * pair], head.spans[2 * pair + 1]
    return head.bytes[start : start + length].decode(errors="replace")


class Lifecycle(exports.Lifecycle):
    def configure(self, text: str) -> Interest:
        given = json.loads(text or "{}")
        for field, value in given.items():
            # The error is shown to the operator.
            if field not in FIELDS:
                raise Err(f"{field}: unknown field; there are greeting and answer")
            if not isinstance(value, str):
                raise Err(f"{field}: {json.dumps(value)}: not a string")
        config.update(given)
        return Interest(
            phases=Phases.REQUEST_HEAD,
            # The host copies no field of the request that is not named here.
            request_fields=["x-hello"],
            response_fields=[],
            request_body_max=0,
            response_body_max=0,
            over_limit=OverLimit.DENY,
            commands=[],
            timer_interval=0,
        )


class RequestFilter(exports.RequestFilter):
    def on_head(self, exchange: int, head: Head, end: bool):
        greeting = config["greeting"]
        if "answer" in config and part(head, PATH).split("?")[0] == config["answer"]:
            headers = [Field("content-type", b"text/plain; charset=utf-8")]
            return HeadVerdict_Deny(Denial(200, "hello", headers, f"{greeting}\n".encode()))
        return HeadVerdict_Edit([Edit_SetField(Field("x-hello", greeting.encode()))])

    def on_body(self, exchange: int, chunk: bytes, end: bool):
        return ChunkVerdict_Forward()


class ResponseFilter(exports.ResponseFilter):
    """The world has responses too; this plugin does not ask for them."""

    def on_head(self, exchange: int, head: Head, end: bool):
        return HeadVerdict_Accept()

    def on_body(self, exchange: int, chunk: bytes, end: bool):
        return ChunkVerdict_Forward()
