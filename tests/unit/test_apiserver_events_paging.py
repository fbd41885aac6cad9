"""Pages out of overlapping chunks, and the chunks of console lines themselves."""

from hypothesis import given
from hypothesis import strategies as st

from apiserver.events.console import CHUNK_BYTES, LogLine, decode, encode, packed, size_of
from apiserver.events.paging import Block, first_after, last_before

chunks = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=8)


def blocks_of(chunks):
    names = iter(range(1000))
    return [block_of(order, [(key, next(names)) for key in keys]) for order, keys in enumerate(chunks)]


def block_of(order, pairs):
    keys = [key for key, _ in pairs]
    return Block(low=min(keys), high=max(keys), order=order, read=lambda: pairs)


def everything(blocks):
    rows = [(key, block.order, place, item) for block in blocks for place, (key, item) in enumerate(block.read())]
    return [(key, item) for key, _, _, item in sorted(rows)]


@given(chunks, st.integers(1, 7))
def test_pages_forwards_add_up_to_everything_in_order(chunks, size):
    blocks = blocks_of(chunks)
    seen, after = [], None
    while page := first_after(sorted(blocks, key=lambda block: block.low), after, size):
        assert len(page) >= min(size, len(everything(blocks)) - len(seen))
        seen += page
        after = page[-1][0]
    assert seen == everything(blocks)


@given(chunks, st.integers(1, 7))
def test_pages_backwards_add_up_to_everything_in_reverse(chunks, size):
    blocks = blocks_of(chunks)
    seen, before = [], None
    while page := last_before(sorted(blocks, key=lambda block: -block.high), before, size):
        seen += page
        before = page[-1][0]
    assert seen[::-1] == everything(blocks)


def test_a_page_reads_only_the_chunks_it_needs():
    read = []

    def chunk(number):
        def reader():
            read.append(number)
            return [(number * 10 + place, place) for place in range(10)]

        return Block(low=number * 10, high=number * 10 + 9, order=number, read=reader)

    assert len(first_after(map(chunk, range(100)), None, 12)) == 12
    assert read == [0, 1]


def line(text, timestamp=1):
    return LogLine(timestamp=timestamp, level="info", worker="w", msg=text, received=2)


@given(st.lists(st.text()))
def test_lines_survive_packing(texts):
    lines = [line(text) for text in texts]
    assert decode(encode(lines)) == lines


def test_a_chunk_ends_when_it_is_full():
    lines = [line("x" * 65_536, timestamp) for timestamp in range(10)]
    sizes = [sum(map(size_of, chunk)) for chunk in packed(lines)]
    assert len(sizes) == 4
    assert all(size <= CHUNK_BYTES for size in sizes)


def test_a_line_larger_than_a_chunk_gets_its_own():
    lines = [line("a"), line("x" * CHUNK_BYTES), line("b")]
    assert packed(lines) == [[lines[0]], [lines[1]], [lines[2]]]
