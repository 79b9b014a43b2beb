"""Rule hashes: the comment by which a rule of ours is known again after a restart without memory.

Pure. The hash of a rule covers its chain's name, its text and all rules before it, so that a change, a loss or a move
shows at the rule itself. The text is each backend's own spelling. Source: felix/generictables/rules.go.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from collections.abc import Iterable

#: What stands before a hash in a rule's comment.
COMMENT_PREFIX = "cali:"
HASH_CHARS = 16
#: So many bytes make so many characters of base64.
_HASH_BYTES = HASH_CHARS * 3 // 4
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def rule_hashes(chain: str, texts: Iterable[str]) -> list[str]:
    """Return one hash of 16 characters per rule text, in order."""
    digest = hashlib.sha224(chain.encode()).digest()
    hashes = []
    for text in texts:
        digest = hashlib.sha224(digest + text.encode()).digest()
        hashes.append(b2a_base64(digest[:_HASH_BYTES], newline=False).translate(_URL_SAFE).decode())
    return hashes
