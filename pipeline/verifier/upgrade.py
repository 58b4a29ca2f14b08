"""Bundles of older versions, in the names of the present one: the only file that knows what names were before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUNDLE_SCHEMA = "torchstone.bundle/2"
BUNDLE_SCHEMAS = ("torchstone.bundle/1", BUNDLE_SCHEMA)
"""Every version that is read here."""
GRAPH_OPTION = "cuda_graph"
SEARCH_OPTION = "cudnn_search"
_RUNTIME_DEFAULTS = {"optimization": "all", "spinning": False, GRAPH_OPTION: False, SEARCH_OPTION: "exhaustive"}


def upgrade_bundle(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """``bundle.json`` of a version in ``BUNDLE_SCHEMAS`` as the present version has it; what is given stays as it is.

    Version 1 calls the reference workload ``kernel``, its time ``kernel_s``, and the tested sizes ``proved``.
    """
    if bundle["schema"] == BUNDLE_SCHEMA:
        return dict(bundle)
    upgraded = _renamed(bundle, {"kernel": "workload"})
    upgraded["schema"] = BUNDLE_SCHEMA
    upgraded["shipped"] = [_upgrade_shipped(shipped) for shipped in bundle["shipped"]]
    return upgraded


def upgrade_parity(report: Mapping[str, Any]) -> dict[str, Any]:
    """A parity report, as far as the chain of records reads it: before version 3 the tested sizes were ``proved``."""
    return _renamed(report, {"proved": "tested_sizes"})


def runtime_option(options: Mapping[str, Any], name: str) -> Any:
    """An option that one runtime alone knows; it lies in ``runtime``, or beside the others in older bundles."""
    return options.get("runtime", options).get(name, _RUNTIME_DEFAULTS[name])


def nested_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of any version in their present shape: what one runtime alone knows in ``runtime``, without defaults."""
    if "runtime" in options:
        return dict(options)
    given = {name: runtime_option(options, name) for name in _RUNTIME_DEFAULTS}
    common = {name: value for name, value in options.items() if name not in _RUNTIME_DEFAULTS}
    return {**common, "runtime": {name: value for name, value in given.items() if value != _RUNTIME_DEFAULTS[name]}}


def _upgrade_shipped(shipped: Mapping[str, Any]) -> dict[str, Any]:
    upgraded = _renamed(shipped, {"proved": "tested_sizes"})
    claim = upgraded["claim"]
    if claim is not None:
        latency = [_renamed(figure, {"kernel_s": "workload_s"}) for figure in claim["latency"]]
        upgraded["claim"] = {**claim, "latency": latency}
    return upgraded


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in fields.items()}
