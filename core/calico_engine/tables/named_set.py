"""One named set or map: what it should hold, and where the kernel's copy differs.

Pure. Both sides are kept as one mapping and the places where they differ, so that a change costs what it touches and a
set of 100 000 elements is kept once. Everything is compared by key, value and comment.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from calico_engine.tables.backend import ActualSet, Element, SetShape, SetWrite

Elements = Mapping[bytes, Element]


class SetContent(msgspec.Struct, frozen=True):
    """All of a set, as wanted."""

    shape: SetShape
    elements: Elements
    comment: str = ""


class NamedSet:
    """`present`: the kernel has a set of this name, whatever it looks like."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = False
        self.present = False
        self._content = SetContent(SetShape(()), {})
        self._elements: dict[bytes, Element] = {}
        # Not to be seen as ours: another shape, or never read. It is made afresh.
        self._foreign = False
        # What the kernel has, by key, where that is not what is wanted; None for nothing.
        self._kernels: dict[bytes, Element | None] = {}

    def __len__(self) -> int:
        return len(self._elements) if self.wanted else 0

    @property
    def shape(self) -> SetShape:
        return self._content.shape

    @property
    def is_dirty(self) -> bool:
        """Whether the kernel is to be changed so that it holds what is wanted."""
        return self.wanted and (not self.present or self._foreign or bool(self._kernels))

    @property
    def is_foreign(self) -> bool:
        """Whether the kernel has something of this name that has to go first."""
        return self.present and self._foreign

    # What is wanted

    def want(self, content: SetContent) -> None:
        """Want the set to exist and to hold exactly this."""
        if content.shape != self.shape:
            self._foreign = self._foreign or self.present
            self._kernels = {}
        elif self.present and not self._foreign:
            self._kernels = _difference(content.elements, self._actual())
        self._content = SetContent(content.shape, {}, content.comment)
        self._elements = dict(content.elements)
        self.wanted = True

    def unwant(self) -> None:
        """Want the set to be gone. What the kernel has is kept in mind until it is."""
        self.wanted = False

    def change(self, key: bytes, element: Element | None) -> None:
        """Want a key to have this element, None for not to be listed. The set is wanted."""
        before = self._elements.get(key)
        if before == element:
            return
        if self.present and not self._foreign:
            kernels = self._kernels.get(key, before) if key in self._kernels else before
            if kernels == element:
                self._kernels.pop(key, None)
            else:
                self._kernels[key] = kernels
        if element is None:
            del self._elements[key]
        else:
            self._elements[key] = element

    # What is to be done

    def write(self) -> SetWrite:
        """Return what makes the kernel's set what is wanted."""
        if not self.present or self._foreign:
            return SetWrite(
                name=self.name,
                shape=self.shape,
                create=True,
                comment=self._content.comment,
                added=dict(self._elements),
            )
        elements, kernels = self._elements, self._kernels
        return SetWrite(
            name=self.name,
            shape=self.shape,
            comment=self._content.comment,
            added={key: elements[key] for key in kernels if key in elements},
            removed={key: element for key, element in kernels.items() if element is not None},
        )

    def everything(self) -> SetWrite:
        """Return what makes the set from nothing. Borrowed until the next change."""
        return SetWrite(
            name=self.name,
            shape=self.shape,
            create=True,
            comment=self._content.comment,
            added=self._elements,
        )

    def note_written(self, write: SetWrite) -> None:
        """Note that a write of this set has happened; what is wanted may have moved on since."""
        if write.create:
            self.present, self._foreign = True, write.shape != self.shape
            self._kernels = {} if write.added == self._elements else _difference(self._elements, write.added)
            return
        for key in write.added.keys() | write.removed.keys():
            kernels = write.added.get(key)
            if self._elements.get(key) == kernels:
                self._kernels.pop(key, None)
            else:
                self._kernels[key] = kernels

    def note_deleted(self) -> None:
        self.present, self._foreign = False, False
        self._kernels = {}

    def take_actual(self, actual: ActualSet | None) -> bool:
        """Note what a read-back found, None for no set of this name; return whether that is news."""
        before = (self.present, self._foreign, self._kernels)
        if actual is None:
            self.note_deleted()
        else:
            self.present = True
            self._foreign = actual.shape is None or (self.wanted and actual.shape != self.shape)
            if not self.wanted:
                # A leftover: what is in it matters only if it is wanted after all.
                self._content = SetContent(actual.shape or SetShape(()), {})
                self._elements = dict(actual.elements)
            self._kernels = {} if self._foreign else _difference(self._elements, actual.elements)
        return before != (self.present, self._foreign, self._kernels)

    def compare(self, actual: ActualSet | None) -> SetWrite | None:
        """Return what would have to be written if the kernel had this; None for nothing. Keeps nothing of it."""
        if not self.wanted:
            return None
        other = NamedSet(self.name)
        other.want(SetContent(self.shape, self._elements, self._content.comment))
        other.take_actual(actual)
        return other.write() if other.is_dirty else None

    def _actual(self) -> Elements:
        """Return all that the kernel's set holds."""
        if not self._kernels:
            return self._elements
        return {
            key: element
            for key, element in {**self._elements, **self._kernels}.items()
            if element is not None
        }


def _difference(wanted: Elements, actual: Elements) -> dict[bytes, Element | None]:
    """Return what is actual by key, where that is not what is wanted."""
    if wanted == actual:
        return {}
    found: dict[bytes, Element | None] = {
        key: actual.get(key) for key, element in wanted.items() if actual.get(key) != element
    }
    found.update((key, element) for key, element in actual.items() if key not in wanted)
    return found
