"""Where MLX's products come from on Linux: the system's OpenBLAS, which of its codes that is told to take (a processor that it
does not know yet gets the slowest one from it), numpy's where the system has none, and how many threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlxtune import blas, numpy_blas
from mlxtune.blas import _core_type

_AVX2 = "fpu sse4_2 avx avx2 fma"
_AVX512 = f"{_AVX2} avx512f avx512cd avx512bw avx512dq avx512vl amx_bf16"


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", _AVX512, "SkylakeX"),
        ("GenuineIntel", _AVX2, "Haswell"),
        ("GenuineIntel", f"{_AVX2} avx512f", "Haswell"),
        ("GenuineIntel", "fpu sse4_2", None),
        ("AuthenticAMD", _AVX512, None),
    ],
)
def test_the_instructions_of_an_intel_processor_decide(tmp_path: Path, vendor: str, flags: str, expected: str | None) -> None:
    cpu = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: Some(R) Xeon(R): 2 GHz\nflags\t\t: {flags}\n\n"
    (tmp_path / "cpuinfo").write_text(cpu + cpu)
    assert _core_type(tmp_path / "cpuinfo") == expected


def test_where_nothing_is_told_of_the_processor_its_own_guess_stays(tmp_path: Path) -> None:
    assert _core_type(tmp_path / "cpuinfo") is None
    (tmp_path / "cpuinfo").write_text("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n")
    assert _core_type(tmp_path / "cpuinfo") is None


_WITHOUT_THE_SYSTEMS = """
import ctypes, sys
from pathlib import Path
import numpy as np
from mlxtune import blas
blas._LIBRARY = "libnobody-has-this.so.0"
assert blas.prefer_openblas() and blas.notes() == ()
assert blas.threads() >= 1
with blas.single_threaded():
    assert blas.threads() == 1
import mlx.core as mx
a, b = (np.random.default_rng(n).standard_normal((3, 65, 65), dtype=np.float32) for n in range(2))
for part in (
    lambda x, y: (x, y),
    lambda x, y: (x.swapaxes(1, 2), y),
    lambda x, y: (x, y.swapaxes(1, 2)),
    lambda x, y: (x[:, :7], y[..., :1]),
):
    np.testing.assert_allclose(mx.matmul(*part(mx.array(a), mx.array(b))), np.matmul(*part(a, b)), rtol=1e-4, atol=1e-4)
calls = []
whole, real, place = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int] * 3, *[whole] * 3, real, place, whole, place, whole, real, place, whole)
counting = kind(lambda *arguments: calls.append(arguments[3:6]))
(bridge,) = Path(sys.argv[1]).glob("blas/*.so")
ctypes.CDLL(str(bridge)).mlxtune_product(counting)
mx.eval(mx.ones((64, 32)) @ mx.ones((32, 48)))
assert calls and sorted(calls[0]) == [32, 48, 64], calls
"""
_numpys = list((Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*.so"))


@pytest.mark.skipif(not (_numpys and shutil.which("g++")), reason="numpy brings no OpenBLAS here, or g++ is not installed")
def test_numpys_library_takes_the_place_of_one_that_is_not_installed(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    script = [sys.executable, "-c", _WITHOUT_THE_SYSTEMS, str(tmp_path)]
    done = subprocess.run(script, env={**os.environ, "MLXTUNE_CACHE": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_without_a_compiler_that_works_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(numpy_blas.shutil, "which", lambda name: compiler)
    assert numpy_blas.numpys_openblas() is None


@pytest.mark.skipif(not blas.prefer_openblas(), reason="OpenBLAS is not installed")
def test_one_thread_for_a_while() -> None:
    library = blas._openblas()
    before = blas.threads()
    library.set_threads(2)
    try:
        with pytest.raises(ValueError), blas.single_threaded():
            assert blas.threads() == 1
            raise ValueError
        assert blas.threads() == 2
    finally:
        library.set_threads(before)
