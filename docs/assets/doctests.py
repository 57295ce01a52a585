"""An extension of mkdocstrings: examples at the end of a docstring become its section "Examples"."""

import re
from typing import Any

import griffe


class DoctestExamples(griffe.Extension):
    """Put `Examples:` before the first prompt of each docstring, as Google's style asks."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring and "Examples:" not in obj.docstring.value:
            text, prompt, examples = obj.docstring.value.partition("\n>>> ")
            if prompt:
                indented = re.sub(r"(?m)^(?=.)", "    ", prompt.lstrip("\n") + examples)
                obj.docstring.value = f"{text}\n\nExamples:\n{indented}"
