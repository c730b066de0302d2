"""CuPy without a GPU: its kernels compiled for the host, and a stand-in for the library."""

import ctypes
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from iga_array import MLP, Trainer
from iga_array.activations import activated
from iga_core import Adam, Adjustment, Equalise, Grouping, Muon, Network, Scale
from iga_core.kinds import KINDS
from iga_lab.errors import InputError
from iga_lab.hardware import array_library, backends
from tests.conftest import missing
from tests.support.oracle import close

KERNELS = {name: kind.cuda for name, kind in KINDS.items()}
DTYPES = {"float32": "float", "float64": "double"}
HOST = """
#include <cmath>
namespace kernels {
using std::abs; using std::exp;
typedef %s T;
static void sincos(T z, T* sine, T* cosine) { *sine = std::sin(z); *cosine = std::cos(z); }
%s
}
"""
FUNCTION = """
extern "C" void %s(const T* zs, T* values, T* slopes, int count) {
    for (int i = 0; i < count; ++i) {
        const T z = zs[i]; T &value = values[i], &slope = slopes[i];
        %s
    }
}
"""


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def arguments(dtype):
    """Pre-activations, as a matrix and a bias."""
    z = np.concatenate([np.linspace(-7, 7, 241), [0.0, np.nan]]).astype(dtype)
    bias = np.asarray([0.0, 0.5, -3.0], dtype)
    return np.ascontiguousarray(np.broadcast_to(z[:, None], (z.size, 3))), bias


@pytest.fixture(scope="module", params=DTYPES)
def on_the_host(request, tmp_path_factory):
    """The bodies of CuPy's kernels, compiled for this processor."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    folder = tmp_path_factory.mktemp("kernels")
    functions = "".join(FUNCTION % each for each in KERNELS.items())
    (folder / "kernels.cpp").write_text(HOST % (DTYPES[request.param], functions))
    command = [compiler, "-std=c++17", "-shared", "-fPIC", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    return np.dtype(request.param), ctypes.CDLL(str(folder / "kernels.so"))


@pytest.mark.parametrize("kind", KERNELS)
def test_the_kernels_compute_what_numpy_computes(on_the_host, kind):
    dtype, library = on_the_host
    product, bias = arguments(dtype)
    z = product + bias
    got = np.empty_like(z), np.empty_like(z)
    getattr(library, kind)(*(ctypes.c_void_p(a.ctypes.data) for a in (z, *got)), z.size)
    for mine, wanted in zip(got, activated(np, kind, product, bias), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=200 * np.finfo(dtype).eps)


ADJUSTMENTS = {
    "plain": None,
    "paper": Adjustment.paper(end=8),
    "group-wise": Adjustment(Equalise(8), samples=2, refresh=1, average=0),
    "damp": Adjustment(),
    "scale": Adjustment(Scale(0.1)),
}
adjustments = pytest.mark.parametrize("adjustment", ADJUSTMENTS.values(), ids=ADJUSTMENTS)


def trainer(xp, adjustment, optimizer=None, kind="pe", columns=16):
    coords = np.random.default_rng(0).uniform(-1, 1, (32 * 32, 2)).astype(np.float32)
    targets = np.random.default_rng(1).uniform(-1, 1, (32 * 32, 3)).astype(np.float32)
    return Trainer(
        MLP(Network(kind, width=32), xp=xp),
        xp.asarray(coords),
        xp.asarray(targets),
        grouping=Grouping.patches((32, 32), 8),
        adjustment=adjustment,
        optimizer=optimizer or Adam(1e-3),
        columns=columns,
    )


class TestOnAGPU:
    """Not collected where there is none."""

    __test__ = not missing("cupy")

    @pytest.mark.parametrize("kind", KERNELS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_one_kernel_computes_an_activation_and_its_derivative(self, cupy, kind, dtype):
        import array_api_compat.cupy as xp

        product, bias = arguments(dtype)
        got = activated(xp, kind, cupy.asarray(product), cupy.asarray(bias))
        for mine, wanted in zip(got, activated(np, kind, product, bias), strict=True):
            np.testing.assert_allclose(mine.get(), wanted, rtol=0, atol=200 * np.finfo(dtype).eps)

    @adjustments
    @pytest.mark.parametrize("optimizer", [Adam(1e-3), Muon(1e-2)], ids=["adam", "muon"])
    def test_no_step_waits_for_the_gpu(self, cupy, adjustment, optimizer):
        run = trainer(cupy, adjustment, optimizer)
        busy = cupy.RawKernel(
            'extern "C" __global__ void busy(long long ticks)'
            "{ const long long start = clock64(); while (clock64() - start < ticks) {} }",
            "busy",
        )
        busy((1,), (1,), (np.int64(1),))
        for _ in range(3):
            run.step()
        for _ in range(5):  # another process may hold up this one
            cupy.cuda.Device().synchronize()
            busy((1,), (1,), (np.int64(10**9),))  # about half a second
            run.step()
            if not cupy.cuda.get_current_stream().done:
                return
        pytest.fail("the step returned only when the GPU was done with what came before")

    @adjustments
    def test_memory_is_taken_from_the_pool_and_does_not_grow(self, cupy, adjustment):
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            run = trainer(cupy, adjustment)
            for _ in range(3):
                run.step()
            cupy.cuda.Device().synchronize()
            taken, free = pool.total_bytes(), cupy.cuda.runtime.memGetInfo()[0]
            for _ in range(10):
                run.step()
            cupy.cuda.Device().synchronize()
            assert pool.total_bytes() == taken > 0
            assert cupy.cuda.runtime.memGetInfo()[0] > free - 2**20

    @adjustments
    @pytest.mark.parametrize("kind", ["pe", "siren"])
    def test_a_run_goes_as_on_numpy(self, cupy, adjustment, kind):
        mine, wanted = (trainer(xp, adjustment, kind=kind) for xp in (cupy, np))
        for _ in range(5):
            close(mine.step().get(), wanted.step(), 1e-4)


def stand_in(monkeypatch, answer):
    """Put a module in CuPy's place, or none, whose runtime gives this answer about devices."""

    def devices():
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("cupy")
    module.__spec__ = ModuleSpec("cupy", None)
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=devices))
    monkeypatch.setitem(sys.modules, "cupy", None if answer is None else module)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r'cupy: expected to be installed, .* pip install "iga-core\[cupy\]"'),
        (0, "cupy: expected a CUDA device, got none; choose --backend numpy"),
        (RuntimeError("cudaErrorNoDevice:\nno device"), "got cudaErrorNoDevice: no device; choose"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, answer, said):
    stand_in(monkeypatch, answer)
    with pytest.raises(InputError, match=said):
        array_library("cupy", None)
    (found,) = [usable for usable in backends() if usable.name == "cupy"]
    assert not found.devices
    assert found.note.startswith("not installed: pip" if answer is None else "not usable: cupy")
