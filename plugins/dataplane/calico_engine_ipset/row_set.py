"""A set of rows that takes single changes at once and is one sorted buffer when all of it is wanted. Pure.

100 000 rows are two megabytes in one buffer, and ten times as many objects in a Python set. So the buffer stays as it
is, changes are kept beside it, and it is made anew when they are many.
"""

from __future__ import annotations

from calico_engine.fastpath import SET_ROW_SIZE, sort_unique_rows, subtract_rows

#: More changes than this and than an eighth of the rows are worth a new buffer.
_FEW_CHANGES = 1000
#: So few rows are no buffer when some of them are taken out.
_SMALL_BYTES = 16 * SET_ROW_SIZE


def count_rows(rows: bytes) -> int:
    return len(rows) // SET_ROW_SIZE


def split_rows(rows: bytes) -> list[bytes]:
    return [rows[i : i + SET_ROW_SIZE] for i in range(0, len(rows), SET_ROW_SIZE)]


def normal_rows(rows: bytes) -> bytes:
    """Return rows sorted, each once."""
    return sort_unique_rows(rows, SET_ROW_SIZE) if len(rows) > SET_ROW_SIZE else rows


def left_rows(rows: bytes, others: bytes) -> bytes:
    """Return the rows that others does not have; both sorted, each row once."""
    return subtract_rows(rows, others, SET_ROW_SIZE) if rows and others else rows


def merged_rows(rows: bytes, added: bytes, removed: bytes) -> bytes:
    """Return rows without those removed, with those added; all three sorted, each row once."""
    kept = left_rows(rows, removed)
    return normal_rows(kept + added) if kept and added else kept or added


class RowSet:
    """Begins with rows that are sorted, each once."""

    __slots__ = ("_added", "_base", "_removed")

    def __init__(self, rows: bytes = b"") -> None:
        self._base = rows
        self._added: set[bytes] = set()
        self._removed: set[bytes] = set()

    def __len__(self) -> int:
        return count_rows(self._base) + len(self._added) - len(self._removed)

    def __contains__(self, row: bytes) -> bool:
        if row in self._added:
            return True
        return row not in self._removed and self._is_in_base(row)

    def _is_in_base(self, row: bytes) -> bool:
        base, low, high = self._base, 0, count_rows(self._base)
        while low < high:
            middle = (low + high) // 2
            if base[middle * SET_ROW_SIZE : middle * SET_ROW_SIZE + SET_ROW_SIZE] < row:
                low = middle + 1
            else:
                high = middle
        return base[low * SET_ROW_SIZE : low * SET_ROW_SIZE + SET_ROW_SIZE] == row

    def add(self, row: bytes) -> None:
        """Put in a row that may be there."""
        if row in self._removed:
            self._removed.discard(row)
        elif not self._is_in_base(row):
            self._added.add(row)
            self._fold_many()

    def discard(self, row: bytes) -> None:
        """Take out a row that may not be there."""
        if len(self._base) <= _SMALL_BYTES:
            self._unfold()
        if row in self._added:
            self._added.discard(row)
        elif self._is_in_base(row):
            self._removed.add(row)
            self._fold_many()

    def rows(self) -> bytes:
        """Return all rows, sorted; the same buffer as long as nothing changes."""
        if self._added or self._removed:
            self._base = merged_rows(
                self._base, b"".join(sorted(self._added)), b"".join(sorted(self._removed))
            )
            self._added.clear()
            self._removed.clear()
        return self._base

    def _unfold(self) -> None:
        """Make a small set one of Python's: changing it takes no buffer."""
        self._added.update(split_rows(left_rows(self._base, b"".join(sorted(self._removed)))))
        self._removed.clear()
        self._base = b""

    def copy(self) -> RowSet:
        """Return one that changes apart from this; the buffer is shared."""
        copied = RowSet(self._base)
        copied._added |= self._added
        copied._removed |= self._removed
        return copied

    def _fold_many(self) -> None:
        changes = len(self._added) + len(self._removed)
        if changes > _FEW_CHANGES and changes > count_rows(self._base) // 8:
            self.rows()
