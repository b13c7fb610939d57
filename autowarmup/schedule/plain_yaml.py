"""YAML as people write settings: plain mappings, lists and values, and nothing that could expand or run."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode

from autowarmup.values import short


def load(text: str | bytes) -> Any:
    """What a YAML text says.

    Raises:
        ValueError: it is not readable, or holds aliases, tags, repeated keys or huge numbers.

    Example:
        >>> load("low: 1e-3")
        {'low': 0.001}
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader that allows even less
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(_problem(error)) from error


def _problem(error: Exception) -> str:
    """What is wrong with a YAML text, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply; allowed: keys, lists and one mapping inside another"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can expand to gigabytes), tags, repeated keys and huge
    integers, and with ``1e-3`` read as the number that people mean."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not allowed: write the value out", event)
        if event.tag is not None:
            raise _refused(f"tags are not allowed, got {short(event.tag)}: write the plain value", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = Counter(self.construct_object(key) for key, _ in node.value)
            raise _refused(f"the key {short(keys.most_common(1)[0][0])} stands twice", node)
        return mapping

    def integer(self, node: ScalarNode) -> Any:
        if len(node.value) > 20:
            raise _refused(f"a number of {len(node.value)} digits; allowed: up to 20", node)
        return self.construct_yaml_int(node)


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.integer)
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
