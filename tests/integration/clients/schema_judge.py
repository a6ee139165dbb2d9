"""Judges the objects of a folder's examples and docs by the schemas of an OpenAPI document.

Objects are `examples/*/<kind>/*.yaml`, and blocks of `docs/*.md` that begin with
`# <kind>/<id>.yaml`. Prints their number, then what does not fit; exit code 1 when
anything does not.
"""

import json
import pathlib
import re
import sys

import jsonschema
import yaml

BLOCK = re.compile(r"^```yaml\n# ([a-z_]+)/[a-z0-9_.-]+\.yaml\b[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)



def without_gaps(value):
    """A value without what only says that there is more."""
    if isinstance(value, dict):
        return {name: without_gaps(one) for name, one in value.items() if name != "…"}
    return [without_gaps(one) for one in value] if isinstance(value, list) else value


with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
root = pathlib.Path(sys.argv[2])

found = []
for path in sorted(root.glob("examples/*/*/*.yaml")):
    found.append((str(path.relative_to(root)), path.parent.name, path.read_text(encoding="utf-8")))
for path in sorted(root.glob("docs/*.md")):
    for kind, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        # A second file in the same block is for the reader.
        found.append((f"{path.name}: {kind}", kind, text.split("\n# ")[0]))

faults = []
count = 0
for name, kind, text in found:
    operations = document["paths"].get(f"/apisix/admin/{kind}/{{id}}")
    if operations is None:
        continue
    content = operations["put"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document["components"]}
    count += 1
    for fault in jsonschema.Draft202012Validator(schema).iter_errors(without_gaps(yaml.safe_load(text))):
        faults.append(f"{name}: {'.'.join(str(part) for part in fault.absolute_path)}: {fault.message}")
print(count)
print("\n".join(faults))
sys.exit(1 if faults else 0)
