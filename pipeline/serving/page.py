"""The page at ``/``: what is served, how it was tested and timed, and a form to try it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec

from pipeline.serving.protocol.datatypes import BINARY_ONLY, DATATYPES
from pipeline.serving.protocol.responses import HTML, Response

if TYPE_CHECKING:
    from pipeline.serving.entry import Served
    from pipeline.serving.model import Model

_TEMPLATES = Path(__file__).with_name("templates")
_TYPES = {"page.js": b"text/javascript; charset=utf-8", "page.css": b"text/css; charset=utf-8"}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer"))


def page(models: Sequence[Served]) -> Response:
    """The page."""
    rows = [_facts(served.model) for served in models]
    return Response(200, _template().render(models=rows).encode(), HTML, _HEADERS)


def asset(name: str) -> Response:
    """The page's script or style."""
    return Response(200, (_TEMPLATES / name).read_bytes(), _TYPES[name], _HEADERS)


def _facts(model: Model) -> dict[str, Any]:
    """What the template shows of a model."""
    shipped, claim = model.shipped, model.shipped["claim"]
    return {
        "name": model.name,
        "version": model.version,
        "artifact": shipped["name"],
        "options": shipped["options"],
        "parity": shipped["parity"],
        "golden": model.findings["artifacts"][shipped["name"]]["golden"],
        "sha256": model.findings["sha256"],
        "latency": claim["latency"] if claim else [],
        "ranges": {name: bounds.summary for name, bounds in model.signature.ranges.items()},
        "inputs": [(spec.name, DATATYPES[spec.dtype], [*spec.shape]) for spec in model.signature.inputs],
        "outputs": [(spec.name, DATATYPES[spec.dtype], [*spec.shape]) for spec in model.signature.outputs],
        "request": _request(model),
    }


def _request(model: Model) -> str | None:
    """A request to begin with; None where JSON cannot carry the model's tensors."""
    specs = (*model.signature.inputs, *model.signature.outputs)
    if any(DATATYPES[spec.dtype] in BINARY_ONLY for spec in specs):
        return None
    inputs = []
    for spec in model.signature.inputs:
        array = model.example[spec.name]
        tensor = {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [*array.shape]}
        inputs.append({**tensor, "data": array.ravel().tolist()})
    return msgspec.json.encode({"inputs": inputs}).decode()


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html"
    )
