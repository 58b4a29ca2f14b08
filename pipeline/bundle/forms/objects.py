"""What Kubernetes objects share: a valid name, resources as they were measured, YAML that all parsers read alike."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from export.device import device
from pipeline.bundle.record import Shipped

_MOST_CHARACTERS = 39
"""What is left of a label's 63 when KServe and Knative append ``-predictor-00001-private``."""
_OWN_MIB = 512
"""Memory that a server takes before it loads a model."""
_PLAIN = re.compile("[A-Za-z][A-Za-z0-9./-]{2,}")
"""Texts that no parser of YAML takes for a number or a truth value; PyYAML quotes ``true`` and the like itself."""


def label(name: str) -> str:
    """What a recipe's model is called by servers: an RFC 1035 label, which begins with a letter and is never empty.

    That is a valid name of every Kubernetes object, of an image and of a model in Triton, whose HTTP server does not
    find a name that has to be escaped in a URL. Letters lose their accents; those of other scripts are left out.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub("[^a-z0-9]+", "-", ascii_name.lower()).strip("-")
    begun = words if words[:1].isalpha() else f"model-{words}"
    return begun[:_MOST_CHARACTERS].strip("-")


def resources(shipped: Shipped) -> dict[str, Any]:
    """As many cores as it was measured with, twice the memory that a process with it was seen to take, and its GPU.

    A GPU is a limit alone: Kubernetes takes it for the request too, and shares none.
    """
    memory = f"{_OWN_MIB + 2 * (shipped.peak_bytes >> 20)}Mi"
    limits: dict[str, Any] = {"cpu": str(shipped.options.threads_count), "memory": memory}
    maker = device(shipped.options.device).maker
    return {"requests": dict(limits), "limits": limits | ({f"{maker}.com/gpu": "1"} if maker else {})}


def write_objects(path: Path, *objects: dict[str, Any], comment: str = "") -> None:
    """One YAML document for each, below the comment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=float("inf"))
    path.write_text(f"# {comment}\n{text}" if comment else text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not plainly one: Go's parser takes ``y`` for true and ``12e4`` for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write out again what stands in two places."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else "'")


_Dumper.add_representer(str, _text)
