"""Random operations on text files, against the builtin open (Hypothesis): encodings, line ends, positions."""

import os
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.helpers import run
from support.two_files import Pair

pytestmark = pytest.mark.slow

# Multiplies the number of examples, for a longer search: URINGLOOP_EXAMPLES=100.
TIMES = int(os.environ.get("URINGLOOP_EXAMPLES", "1"))

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "shift_jis", "utf-7"]
NEWLINES = [None, "", "\n", "\r", "\r\n"]
MODES = ["r", "r+", "w", "w+", "a", "a+", "x+"]

# Line ends of all kinds, characters of one to four bytes, and so many that chunks of 8 KiB end in between.
PIECES = st.sampled_from(["a", "bc", "\n", "\r", "\r\n", "\r\r\n", "\n\r", "ä", "€", "𝄞", "あ", "+-", "\0"])
TEXTS = st.builds(
    lambda parts, pad, more: "".join(parts) + "x" * pad + "".join(more),
    st.lists(PIECES, max_size=12),
    st.sampled_from([0, 0, 0, 3, 2040, 4090, 8180, 8185, 16380]),
    st.lists(PIECES, max_size=12),
)
BYTES = st.sampled_from([b"", b"", b"", b"\xff", b"\xc3", b"\x80ok\n", b"\xd8\x00", b"\r"])
SIZES = st.one_of(st.integers(-1, 20), st.sampled_from([100, 8191, 8192, 8193, 30_000]))
STEPS = st.one_of(
    st.tuples(st.just("read"), SIZES),
    st.tuples(st.just("readline")),
    st.tuples(st.just("readline"), SIZES),
    st.tuples(st.just("write"), TEXTS),
    st.tuples(st.just("writelines"), st.lists(TEXTS, max_size=3)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("seek"), st.just(0), st.sampled_from([0, 0, 1, 2])),
    st.tuples(st.just("seek"), st.integers(-2, 40), st.sampled_from([1, 2, 5])),
    st.tuples(st.just("truncate"), st.sampled_from([None, 0, 7, 8192, 9000])),
    st.tuples(st.just("remember")),
    st.tuples(st.just("remember")),
    st.tuples(st.just("go back"), st.integers(0, 5)),
)


def encoded(text, encoding):
    return text.encode(encoding, "ignore")


class Lost(Exception):
    """Both files refused to go to a position, since the file was cut before it; what they do then is not compared."""


async def go_on_both(both, *args):
    try:
        theirs = both.theirs.seek(*args)
    except OSError as error:
        with pytest.raises(OSError, match=str(error)):
            await both.ours.seek(*args)
        raise Lost() from None
    return theirs, await both.ours.seek(*args)


async def step_on_both(both, known, step):
    """`known` are positions that tell() returned on both sides."""
    name, *args = step
    if sys.version_info < (3, 13) and name.startswith("read"):
        both.theirs.flush()  # these versions read before they have written
    if name == "remember" or step == ("seek", 0, 1):
        if name == "remember":
            theirs, ours = both.theirs.tell(), await both.ours.tell()
        else:
            theirs, ours = await go_on_both(both, 0, 1)
        if max(theirs, ours) < 1 << 64:
            assert theirs == ours
        known.append((theirs, ours))
    elif name == "go back":
        if known:
            theirs, ours = known[args[0] % len(known)]
            both.theirs.seek(theirs)
            await both.ours.seek(ours)
    else:
        await both.step(name, *args)


async def scenario(both, content, options, steps):
    for path in both.paths:
        path.unlink(missing_ok=True)
        if "x" not in options["mode"]:
            path.write_bytes(content)
    await both.open(**options)
    known = []
    try:
        for step in steps:
            await step_on_both(both, known, step)
    except Lost:
        pass
    except BaseException:
        both.theirs.close()
        await both.ours.close()
        raise
    await both.close()


def test_a_text_file_behaves_like_the_builtin_opens(loop, tmp_path):
    both = Pair(tmp_path, None)

    @settings(max_examples=150 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(MODES),
        st.sampled_from(ENCODINGS),
        st.sampled_from(NEWLINES),
        st.sampled_from(["strict", "replace", "surrogateescape"]),
        TEXTS,
        BYTES,
        st.lists(STEPS, max_size=12),
    )
    @example(
        "r+",
        "utf-8",
        None,
        "replace",
        "a",
        b"\xc3",
        [("read", 1), ("truncate", 0), ("read", 9), ("seek", 0, 1)],
    )
    @example(
        "r+",
        "utf-8",
        None,
        "replace",
        "a",
        b"\xc3",
        [("read", 1), ("truncate", 0), ("read", 1), ("seek", 0, 1)],
    )
    @example("w+", "utf-8-sig", None, "strict", "", b"", [("read", 1), *[("seek", 0, 1)] * 2, ("write", "")])
    def check(mode, encoding, newline, errors, text, garbage, steps):
        content = encoded(text, encoding) + garbage
        options = {"mode": mode, "encoding": encoding, "newline": newline, "errors": errors}
        run(loop, scenario(both, content, options, steps))

    check()
