"""Label selectors: the text users write, parsed once, then asked many times.

`parse(text)` gives a `Selector`; bad text is a `SelectorSyntaxError` that says where. Pure, no I/O.
The grammar, the canonical form and the unique id are the reference's, so names of kernel sets agree with it.
"""

from calico_engine.selector.ast import Node
from calico_engine.selector.restrictions import LabelRestriction, Restrictions, resolve_restrictions
from calico_engine.selector.selector import ALL, NOTHING, Selector, parse
from calico_engine.selector.tokenizer import MAX_LABEL_CHARS, MAX_SELECTOR_CHARS

__all__ = [
    "ALL",
    "MAX_LABEL_CHARS",
    "MAX_SELECTOR_CHARS",
    "NOTHING",
    "LabelRestriction",
    "Node",
    "Restrictions",
    "Selector",
    "parse",
    "resolve_restrictions",
]
