"""JSON Schemas that others write, used without reaching outside them: nothing is fetched that a `$ref` names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

_REFERENCES: Final = ("$ref", "$dynamicRef")
_LONGEST_REASON: Final = 500

# Numbers beyond what a float can hold; regular expressions that Python does not know, or not of that size.
_NOT_CARRIED_OUT: Final = (ArithmeticError, re.error)


def find_schema_fault(schema: Mapping[str, Any]) -> str | None:
    """Why it can't be used as a JSON Schema (2020-12); None if it can.

    A `$ref` must lead to a place in the schema itself, or to one of the published meta-schemas: by default the library
    would fetch whatever address it names, from inside the hub's network.
    """
    try:
        with _panic_as_recursion():
            # With it a pattern that is no regular expression is found here, and not by the first text that meets it.
            Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
            resource = DRAFT202012.create_resource(schema)
            for reference in _unresolved(REGISTRY.resolver_with_root(resource), resource):
                return f"{reference!r} leads nowhere in it, and nothing is fetched"
    except SchemaError as error:
        return f"not a JSON Schema: {error.message}"
    except RecursionError:
        return "not a usable JSON Schema: it is nested too deeply"
    except _NOT_CARRIED_OUT as error:
        return f"not a usable JSON Schema: {error}"
    return None


def find_instance_fault(validator: type[Draft202012Validator], schema: Mapping[str, Any], instance: Any) -> str | None:
    """Where and how the instance breaks the schema, the first place found; None if it does not."""
    try:
        with _panic_as_recursion():
            for error in validator(schema, registry=REGISTRY).iter_errors(instance):
                return f"{error.json_path}: {error.message[:_LONGEST_REASON]}"
    except Unresolvable as error:  # of a model that was made before references were looked at
        return f"$: the schema's reference {error.ref!r} leads nowhere in it, and nothing is fetched"
    except RecursionError:
        return "$: the schema refers to itself without end, or this is nested too deeply"
    except _NOT_CARRIED_OUT as error:
        return f"$: the schema can't be carried out on this: {error}"
    return None


@contextmanager
def _panic_as_recursion() -> Iterator[None]:
    """Where Python's stack ends in the middle of rpds, which is Rust, it panics: by what is no Exception at all, and
    would end the process that carries the task, again and again."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # it can't be imported
            raise RecursionError(str(error)) from error
        raise


def _unresolved(resolver: Any, resource: Any) -> Iterator[str]:
    contents = resource.contents
    if isinstance(contents, Mapping):
        for keyword in _REFERENCES:
            reference = contents.get(keyword)
            if isinstance(reference, str):
                try:
                    resolver.lookup(reference)
                except Unresolvable:
                    yield reference
    for inner in resource.subresources():
        yield from _unresolved(resolver.in_subresource(inner), inner)
