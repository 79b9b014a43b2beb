"""NamedSet: whatever happens in whatever order, its writes lead a kernel to what is wanted and to nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.tables.backend import ActualSet, Element, KeyPart, SetShape, SetWrite
from calico_engine.tables.named_set import NamedSet, SetContent

SHAPES = (SetShape((KeyPart.NUMBER,)), SetShape((KeyPart.PROTOCOL,)))
KEYS = [bytes([number]) for number in range(4)]
ELEMENTS = [Element(), Element(b"a"), Element(b"a", "why"), Element(b"b")]

elements = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ELEMENTS))
contents = st.builds(SetContent, st.sampled_from(SHAPES), elements)
changes = st.tuples(st.sampled_from(KEYS), st.sampled_from(ELEMENTS) | st.none())
steps = st.lists(
    st.tuples(st.just("want"), contents)
    | st.tuples(st.just("change"), changes)
    | st.tuples(st.just("unwant"), st.none())
    | st.tuples(st.just("write"), changes | st.none())
    | st.tuples(st.just("delete"), st.none())
    | st.tuples(st.just("disturb"), st.none() | contents)
    | st.tuples(st.just("read"), st.none()),
    max_size=25,
)


class Kernel:
    """One set, which refuses what a kernel refuses."""

    def __init__(self) -> None:
        self.content: SetContent | None = None

    def take(self, write: SetWrite) -> None:
        if write.create:
            self.content = SetContent(write.shape, dict(write.added))
            return
        assert self.content is not None
        assert self.content.shape == write.shape
        held = dict(self.content.elements)
        for key, element in write.removed.items():
            assert held.pop(key) == element
        for key, element in write.added.items():
            assert key not in held
            held[key] = element
        self.content = SetContent(write.shape, held)

    def read(self) -> ActualSet | None:
        return None if self.content is None else ActualSet(self.content.shape, self.content.elements)


def settle(named: NamedSet, kernel: Kernel) -> None:
    if named.is_dirty:
        write = named.write()
        kernel.take(write)
        named.note_written(write)


@given(steps)
def test_writes_lead_the_kernel_to_what_is_wanted(history: list[tuple[str, object]]) -> None:
    named, kernel = NamedSet("set"), Kernel()
    wanted: SetContent | None = None
    trusted = True
    for step, value in history:
        match step, value:
            case "want", SetContent() as content:
                named.want(content)
                wanted = content
            case "change", (bytes() as key, (Element() | None) as element) if wanted is not None:
                named.change(key, element)
                rest = {other: one for other, one in wanted.elements.items() if other != key}
                wanted = SetContent(wanted.shape, rest | ({key: element} if element else {}))
            case "unwant", _:
                named.unwant()
                wanted = None
            case "write", moved if trusted and named.is_dirty:
                write = named.write()
                kernel.take(write)
                if moved is not None and wanted is not None:
                    # What is wanted moves on while the kernel works.
                    key, element = moved  # type: ignore[misc]  # hypothesis' union
                    named.change(key, element)
                    rest = {other: one for other, one in wanted.elements.items() if other != key}
                    wanted = SetContent(wanted.shape, rest | ({key: element} if element else {}))
                named.note_written(write)
            case "delete", _ if trusted and wanted is None and named.present:
                kernel.content = None
                named.note_deleted()
            case "disturb", content:
                kernel.content = content  # type: ignore[assignment]  # hypothesis' union
                trusted = False
            case "read", _:
                named.take_actual(kernel.read())
                trusted = True
            case _:
                pass

    named.take_actual(kernel.read()) if not trusted else None
    settle(named, kernel)

    assert not named.is_dirty
    if wanted is not None:
        assert kernel.content is not None
        assert (kernel.content.shape, kernel.content.elements) == (wanted.shape, wanted.elements)
    assert named.present is (kernel.content is not None)


@given(contents, st.none() | contents)
def test_comparing_says_what_writing_would_and_keeps_nothing(
    wanted: SetContent, held: SetContent | None
) -> None:
    named, kernel = NamedSet("set"), Kernel()
    named.want(wanted)
    kernel.content = held

    write = named.compare(kernel.read())
    if write is not None:
        kernel.take(write)

    assert kernel.content is not None
    assert (kernel.content.shape, kernel.content.elements) == (wanted.shape, wanted.elements)
    assert not named.present


def test_one_change_in_many_is_one_element() -> None:
    many = {number.to_bytes(4, "big"): Element(b"x") for number in range(10_000)}
    named = NamedSet("set")
    named.want(SetContent(SHAPES[0], many))
    named.note_written(named.write())

    named.change(b"new!", Element(b"y"))
    added = named.write()
    named.note_written(added)
    named.change(b"new!", None)
    removed = named.write()

    assert (added.added, added.removed) == ({b"new!": Element(b"y")}, {})
    assert (removed.added, removed.removed) == ({}, {b"new!": Element(b"y")})
