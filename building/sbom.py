"""The list of what a wheel is made of (a software bill of materials, CycloneDX 1.6), as PEP 770 places it.

Only what is inside the wheel and is not ours: the copy of liburing, and the support code that Cython and cffi put into
the modules that they generate.  What is installed beside it stands in the wheel's metadata.
"""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from building import liburing


def _library(name: str, version: str, licence: str, purl: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "library",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": licence}}],
        "purl": purl,
        **more,
    }


def _copy_of_liburing() -> dict[str, Any]:
    text = (liburing.ROOT / "third_party" / "README.md").read_text()
    archive = re.search(r"`([0-9a-f]{64})`", text)
    assert archive, "third_party/README.md names the hash of the release's archive"
    version = liburing.SYSTEM_FLOOR
    purl = f"pkg:github/axboe/liburing@liburing-{version}"
    return _library(
        "liburing", version, "MIT", purl, hashes=[{"alg": "SHA-256", "content": archive[1]}], scope="required"
    )


def document(name: str, version: str, has_liburing: bool) -> dict[str, Any]:
    """CycloneDX's JSON.  Without a time and a serial number, so that the same wheel is made twice.

    Parameters:
        name: of the distribution.
        version: of the distribution.
        has_liburing: whether the copy of liburing is in the modules.
    """
    parts = [_copy_of_liburing()] if has_liburing else []
    for generator, licence in (("Cython", "Apache-2.0"), ("cffi", "MIT")):
        try:
            made_by = metadata.version(generator)
        except (
            metadata.PackageNotFoundError
        ):  # cffi, which does not exist for 3.13t: the wheel has no module of it
            continue
        parts.append(_library(generator, made_by, licence, f"pkg:pypi/{generator.lower()}@{made_by}"))
    itself = _library(name, version, "MIT", f"pkg:generic/{name}@{version}")
    itself["bom-ref"] = name
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": itself},
        "components": parts,
    }


def write(folder: Path, name: str, version: str, has_liburing: bool) -> None:
    """Write it into a .dist-info folder."""
    path = folder / "sboms" / f"{name}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document(name, version, has_liburing), indent=2) + "\n")
