"""Values that a caller may pass by mistake, as hypothesis strategies: of JSON, of numpy, and odd ones of Python."""

from __future__ import annotations

from fractions import Fraction
from pathlib import PurePath
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

_TEXTS = st.text(st.characters(), max_size=12)  # half surrogates and NUL included
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXTS)
JSON_VALUE: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=6
)
_NUMPY_VALUE = st.one_of(
    hypothesis_numpy.scalar_dtypes().flatmap(hypothesis_numpy.from_dtype),
    st.sampled_from([np.array(5), np.array([5]), np.zeros((2, 2)), np.array("a"), np.array(["a"]), np.array([])]),
)
_ODD_VALUE = st.sampled_from(
    [b"a", bytearray(b"a"), {1: 2}, {"a"}, 3j, object(), int, len, Fraction(1, 2), PurePath("a"), 10**400, range(3)]
)
ANY_VALUE: st.SearchStrategy[Any] = JSON_VALUE | _NUMPY_VALUE | _ODD_VALUE
