"""Compare this machine with the one that made a model: equal bytes are promised on one type of machine."""

from collections.abc import Mapping
from typing import Any

from tasks.benchmarking.environment import describe_environment

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")
"""the packages that calculate what is compared"""


def describe_machine_change(recorded: Mapping[str, Any], device: str) -> str:
    """Say how this machine differs from the recorded one, as in `torch 2.13.0, then 2.12.1`; '' if not.

    `device` is the one on which the model has been trained here.
    """
    now = describe_environment([]) | {"device": device}
    versions = recorded.get("versions", {})
    pairs = [("trained on", now["device"], recorded.get("device")), ("CPU", now["cpu"], recorded.get("cpu"))]
    pairs += [(name, now["versions"].get(name, "none"), versions.get(name, "none")) for name in PACKAGES]
    changes = [f"{name} {here}, then {before}" for name, here, before in pairs if here != before]
    if now["flags"] != recorded.get("flags"):
        flags = sorted({*now["flags"]} ^ {*recorded.get("flags", [])})
        changes.append(f"CPU flags that only one of them has: {' '.join(flags)}")
    return "; ".join(changes)
