"""Values as one run of bytes: what comes out is what went in, also where it travelled in a frame."""

from __future__ import annotations

import numpy as np
import pytest

from tutti._parcel import payload, value_of

VALUES = [
    None,
    {"a": (1, 2.5, "é"), "b": [b"xyz", None]},
    {"x": np.arange(7, dtype=np.int16), "y": np.asfortranarray(np.ones((3, 5))), "none": np.zeros((0, 4))},
    (np.arange(12.0).reshape(3, 4)[:, ::2], np.array(3.5), np.array(["ab", "c"])),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_comes_out_of_a_payload_is_what_went_in(value: object) -> None:
    found = value_of(bytearray(b"".join(payload(value))))
    np.testing.assert_equal(found, value)


def test_arrays_are_views_of_the_memory_that_was_received() -> None:
    memory = np.frombuffer(bytearray(b"".join(payload(np.arange(1000.0)))), np.uint8)
    assert np.shares_memory(value_of(memory), memory)


def test_a_length_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot lie in"):
        value_of(b"\xff" * 100)
