"""What the ipset program reads and prints. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from calico_engine_ipset.kernel_set import SetShape, hashsize_for


class PrintedSet(msgspec.Struct, gc=False):
    """A set as `ipset save` prints it; options that are not ours (a comment) stand behind a member."""

    shape: SetShape
    members: list[str]


def parse_save(text: str) -> dict[str, PrintedSet]:
    """Return all sets by name, foreign ones included. A set's members follow the line that creates it."""
    sets: dict[str, PrintedSet] = {}
    prefix, cut = "add ", 0
    members: list[str] = []
    for line in text.split("\n"):
        if line.startswith(prefix):
            members.append(line[cut:])
        elif line.startswith("create "):
            words = line.split()
            options = dict(zip(words[3::2], words[4::2], strict=False))
            members = []
            sets[words[1]] = PrintedSet(
                SetShape(words[2], options.get("family", ""), int(options.get("maxelem", 0))), members
            )
            prefix = f"add {words[1]} "
            cut = len(prefix)
    return sets


def parse_references(text: str) -> dict[str, int]:
    """Return how many references the kernel holds to each set, from `ipset list -terse`."""
    references: dict[str, int] = {}
    name = ""
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key == "Name":
            name = value
        elif key == "References":
            references[name] = int(value)
    return references


def create_line(name: str, shape: SetShape, count: int) -> str:
    """Return the line that makes a set with room for this many members at once."""
    return f"create {name} {shape.type} family {shape.family} hashsize {hashsize_for(count)} maxelem {shape.maxelem}"


def member_lines(verb: str, name: str, members: Iterable[str]) -> str:
    """Return a line a member, each ending in a newline. `verb` is add or del."""
    prefix = f"{verb} {name} "
    if verb == "del":
        # Somebody else's options (nomatch, a comment) are shown with a member; deleting takes none.
        members = [member.partition(" ")[0] for member in members]
    return "".join([f"{prefix}{member}\n" for member in members])


def fill_text(name: str, shape: SetShape, members: Collection[str]) -> str:
    """Return what makes a set that does not exist."""
    return f"{create_line(name, shape, len(members))}\n{member_lines('add', name, members)}"
