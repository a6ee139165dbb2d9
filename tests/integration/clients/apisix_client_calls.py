"""Drives the Admin API with the `apisix-client` package, which knows APISIX only.

Arguments: the address with a slash at its end, a key, a node (`host:port`).
"""

import sys

from apisix_client.client import ApisixClient
from apisix_client.route.models import Route
from apisix_client.service.models import Service
from apisix_client.upstream.models import Node, Upstream

address, key, node = sys.argv[1:]
host, port = node.rsplit(":", 1)
client = ApisixClient(address, key)

upstream = Upstream(type="roundrobin", nodes=[Node(host=host, port=int(port), weight=1)], scheme="http")
assert client.upstream.create_or_update(upstream, "py") == "py"
assert client.upstream.create_or_update(upstream, "py") == "py"
made = client.upstream.create_with_id_generation(upstream)
assert made and made != "py", made
assert client.upstream.count() == 2
read = client.upstream.get("py")
assert read.key == "/apisix/upstreams/py", read
assert read.value.type == "roundrobin" and read.value.nodes[0].host == host, read
assert read.created_index <= read.modified_index, read
assert client.upstream.get("none") is None
assert {item.value.id for item in client.upstream.get_all()} == {"py", made}
assert len(client.upstream.get_all([1, 10])) == 2
assert client.upstream.delete(made) == 1

assert client.service.create_or_update(Service(name="py", upstream_id="py"), "py") == "py"
route = Route(name="py", uri="/from-python", methods=["GET"], service_id="py")
assert client.route.create_or_update(route, "py") == "py"
read = client.route.get("py")
assert read.value.uri == "/from-python" and read.value.id == "py", read
assert client.route.create_or_update(Route(uri="no-slash"), "bad") is None
assert client.route.count() == 1

other = client.route.create_with_id_generation(Route(uri="/other", service_id="py"))
assert other and client.route.delete(other) is True
assert client.route.delete(other) is False

assert "limit-count" in client.plugin.get_available()
assert client.plugin.reload() is True
print("all calls as expected")
