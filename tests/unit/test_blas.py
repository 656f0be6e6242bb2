"""Which of its codes OpenBLAS is told to take: a processor that it does not know yet gets the slowest one from it. And how many
threads."""

from pathlib import Path

import pytest

from mlxtune import blas
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


@pytest.mark.skipif(not blas.prefer_openblas(), reason="OpenBLAS is not installed")
def test_one_thread_for_a_while() -> None:
    library = blas._openblas()
    before = blas.threads()
    library.openblas_set_num_threads(2)
    try:
        with pytest.raises(ValueError), blas.single_threaded():
            assert blas.threads() == 1
            raise ValueError
        assert blas.threads() == 2
    finally:
        library.openblas_set_num_threads(before)
