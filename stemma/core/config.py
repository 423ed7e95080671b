"""Config models: strict, frozen, torch-free; and which of their fields say *what* rather than *how*.

A field is *identity* when changing it changes the result (a learning rate, a seed). It is *execution* when it
only changes how the result is reached (worker counts, paths, how often to checkpoint). Identity goes into an
artifact's fingerprint; execution stays out of it.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of all config models: unknown fields are errors, values cannot be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def execution_field(default: Any, **kwargs: Any) -> Any:
    """A pydantic ``Field`` that stays out of the fingerprint. ``description=`` and bounds as in ``Field``."""
    return Field(default=default, json_schema_extra={"execution": True}, **kwargs)


def is_execution(model: type[BaseModel], field: str) -> bool:
    extra = model.model_fields[field].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution"))


def identity(value: Any) -> Any:
    """The JSON value of a config without its execution fields, recursively. Same result, same identity."""
    if isinstance(value, BaseModel):
        kind = type(value)
        return {
            name: identity(getattr(value, name)) for name in kind.model_fields if not is_execution(kind, name)
        }
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "value"):  # enum
        return value.value
    raise TypeError(f"a config value of type {type(value).__name__} has no canonical JSON form: {value!r}")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two JSON values: ``path: old -> new``, one line per leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            here = f"{path}.{key}" if path else str(key)
            if key not in old:
                found.append(f"{here}: (absent) -> {json.dumps(new[key])}")
            elif key not in new:
                found.append(f"{here}: {json.dumps(old[key])} -> (absent)")
            else:
                found += differences(old[key], new[key], here)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i, (a, b) in enumerate(zip(old, new)) for line in differences(a, b, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
