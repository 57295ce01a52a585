"""The page of all commands, made from what typer knows of them."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

HEAD = """# Commands

`gatemask commands --write docs/reference/commands.md` writes this page from the code. `gatemask COMMAND --help` prints
the same. Most commands have a target of make, with other options in ARGS: `make train EXP=... FOLD=0 ARGS="--quick"`.
`make help` lists the targets.

Exit codes: 0, done; 1, an error that you can fix; 2, wrong arguments; 70, a fault of gatemask, with the path of a log;
130, stopped with Ctrl-C.
"""
_NAMES = {str: "text", int: "whole number", float: "number", Path: "path"}


def commands_page(root: Any) -> str:
    """Return docs/reference/commands.md.

    Args:
        root: Command `gatemask`, as typer builds it.
    """
    parts = [HEAD, *_table("Options before any command", root.params)]
    for path, command in _commands(root, "gatemask"):
        arguments = [
            parameter.metavar or parameter.name.upper() for parameter in command.params if _is_argument(parameter)
        ]
        required = [parameter.required for parameter in command.params if _is_argument(parameter)]
        shown = [name if needed else f"[{name}]" for name, needed in zip(arguments, required, strict=True)]
        parts.append(f"## {path}\n\n`{' '.join([path, *shown, '[OPTIONS]'])}`\n\n{_text(command.help)}\n")
        parts += _table("argument or option", command.params)
    return "\n".join(parts)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each visible command with its name in full, in the order of --help."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _table(title: str, parameters: list[Any]) -> list[str]:
    shown = [parameter for parameter in parameters if not parameter.hidden and parameter.help]
    if not shown:
        return []
    rows = [f"| {title} | value | default | meaning |", "|---|---|---|---|"]
    for parameter in shown:
        names = [parameter.metavar or parameter.name.upper()] if _is_argument(parameter) else parameter.opts
        cells = [
            ", ".join(f"`{name}`" for name in names),
            _value(parameter),
            _default(parameter),
            _text(parameter.help),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return ["\n".join(rows) + "\n"]


def _value(parameter: Any) -> str:
    """Describe the value that an option takes; a flag takes none."""
    if getattr(parameter, "is_flag", False):
        return ""
    if not _is_argument(parameter) and parameter.metavar:
        return str(parameter.metavar)
    kind = _without_none(parameter.type_descriptor.annotation)
    if get_origin(kind) is list:
        [kind] = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    text = _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
    limits = [
        f"from {parameter.min}" if parameter.min is not None else "",
        f"to {parameter.max}" if parameter.max is not None else "",
    ]
    return " ".join(part for part in (text, *limits) if part)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _default(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False) or parameter.default is None or parameter.default == "":
        return "required" if _is_argument(parameter) and parameter.required else ""
    return f"`{parameter.default}`"


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("<", "&lt;")
