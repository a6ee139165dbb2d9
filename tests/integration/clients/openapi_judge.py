"""Judges an OpenAPI document: exit code 0 when it is valid, 1 and why when it is not."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
faults = list(OpenAPIV31SpecValidator(document).iter_errors())
for fault in faults:
    print("/".join(str(part) for part in fault.absolute_path), fault.message)
sys.exit(1 if faults else 0)
