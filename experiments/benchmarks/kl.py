"""The speed and memory of `wiseale_kl`: `python -m experiments.benchmarks.kl`.

The peers take turns with our implementation in one process. They are Eq. 21-24 by broadcasting, in
JAX with its autodiff and in eager PyTorch; KeOps, if it is installed; and C with OpenMP for the
value, if there is a compiler. A peer is left out if its [M, M, d] arrays would not fit. A peer
whose first call takes long is timed on its second call alone. Memory is the peak of the resident
set of a separate process that computes once, less its peak before. It is not measured on GPUs.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments.benchmarks.machine import machine
from experiments.benchmarks.train import peak_megabytes
from experiments.run import cli
from wiseale_jax import wiseale_kl

FLAGS = flags.FLAGS

SIZES = ("64x2", "256x64", "1024x64", "4096x16", "4096x64", "16384x16", "65536x2")
# The most numbers that a peer may have in one array.
_LARGEST = 3 * 10**8
# A peer whose first call takes more seconds than this gets only one more call, which is timed.
_PATIENCE = 10.0

Peer = Callable[[np.ndarray, np.ndarray, bool], Callable[[], object]]


def _ours(mean: np.ndarray, logvar: np.ndarray, gradient: bool) -> Callable[[], object]:
    return _jax(wiseale_kl, mean, logvar, gradient)


def _naive(mean: np.ndarray, logvar: np.ndarray, gradient: bool) -> Callable[[], object]:
    def bound(mean, logvar):
        spread = jnp.exp(logvar)[:, None] + jnp.exp(logvar)[None, :]
        squares = (mean[:, None] - mean[None, :]) ** 2 / spread
        terms = -0.5 * jnp.sum(squares + jnp.log(spread), axis=-1)
        lse = jnp.mean(jax.nn.logsumexp(terms, axis=1))
        rest = 0.5 * jnp.mean(jnp.sum(mean**2 + jnp.exp(logvar), axis=1))
        return lse - jnp.log(mean.shape[0]) + rest

    return _jax(bound, mean, logvar, gradient)


def _jax(bound, mean, logvar, gradient):
    mean, logvar = jnp.asarray(mean), jnp.asarray(logvar)
    compiled = jax.jit(jax.value_and_grad(bound, (0, 1)) if gradient else bound)
    return lambda: jax.block_until_ready(compiled(mean, logvar))


def _torch_loop(bound, mean, logvar, gradient):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mean, logvar = (torch.tensor(x, device=device, requires_grad=gradient) for x in (mean, logvar))

    def once():
        with torch.set_grad_enabled(gradient):
            value = bound(mean, logvar)
        if not gradient:
            return float(value)
        mean.grad = logvar.grad = None
        value.backward()
        return float(value.detach()), (mean.grad.cpu().numpy(), logvar.grad.cpu().numpy())

    return once


def _torch(mean: np.ndarray, logvar: np.ndarray, gradient: bool) -> Callable[[], object]:
    from experiments.benchmarks import torch_peer

    return _torch_loop(torch_peer.wiseale_kl, mean, logvar, gradient)


def _keops(mean: np.ndarray, logvar: np.ndarray, gradient: bool) -> Callable[[], object]:
    from pykeops.torch import LazyTensor

    def bound(mean, logvar):
        variance = logvar.exp()
        spread = LazyTensor(variance[:, None]) + LazyTensor(variance[None])
        difference = LazyTensor(mean[:, None]) - LazyTensor(mean[None])
        terms = -0.5 * (difference**2 / spread + spread.log()).sum(-1)
        rest = 0.5 * (mean**2 + variance).sum(1).mean()
        return terms.logsumexp(1).mean() - float(np.log(len(mean))) + rest

    return _torch_loop(bound, mean, logvar, gradient)


def _by_hand(mean: np.ndarray, logvar: np.ndarray, gradient: bool) -> Callable[[], object]:
    if gradient:
        raise ValueError("C has no gradient: with --only=C, give --nogradient")
    source = Path(__file__).with_name("pair_kl.c")
    built = Path(tempfile.mkdtemp(), "pair_kl.o")
    options = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
    subprocess.run(["cc", *options, "-c", source, "-o", built], check=True)
    # Linked with -ffast-math, the library would set the process's smallest numbers to 0.
    library = built.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fopenmp", built, "-o", library, "-lm"], check=True)
    function = ctypes.CDLL(str(library)).mean_log_sum_exp
    function.restype = ctypes.c_double
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    function.argtypes = [pointer, pointer, ctypes.c_long, ctypes.c_long]
    columns = [np.ascontiguousarray(x.T) for x in (mean, np.exp(logvar))]
    rest = 0.5 * np.mean(np.sum(mean**2 + np.exp(logvar), axis=1)) - np.log(len(mean))
    return lambda: function(*columns, *mean.shape) + rest


PEERS: dict[str, Peer] = {
    "ours": _ours,
    "naive JAX": _naive,
    "PyTorch": _torch,
    "KeOps": _keops,
    "C": _by_hand,
}


def usable() -> list[str]:
    """The names in `PEERS` that can run on this machine."""
    names = ["ours", "naive JAX"]
    for name, module in (("PyTorch", "torch"), ("KeOps", "pykeops.torch")):
        try:
            __import__(module)
            names.append(name)
        except Exception as error:
            print(f"without {name}: {type(error).__name__}: {error}")
    if shutil.which("cc") and jax.default_backend() == "cpu":
        names.append("C")
    return names


def _takes_part(name: str, size: int, latent: int, gradient: bool) -> bool:
    if name == "C":
        return not gradient
    return name not in ("naive JAX", "PyTorch") or size * size * latent <= _LARGEST


def example(size: int, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and log variances of random posteriors, `[size, latent]`."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((size, latent), np.float32)
    return mean, rng.standard_normal((size, latent), np.float32) - 1


def measure(size: int, latent: int, gradient: bool, names: list[str], rounds: int):
    """Median milliseconds of each peer that takes part, timed in turns."""
    mean, logvar = example(size, latent)
    calls = {
        name: PEERS[name](mean, logvar, gradient)
        for name in names
        if _takes_part(name, size, latent, gradient)
    }
    values, slow = {}, set()
    for name, call in calls.items():
        PEERS[name](*example(8, latent), gradient)()  # KeOps compiles once for each latent size.
        start = time.perf_counter()
        result = call()
        if time.perf_counter() - start > _PATIENCE:
            slow.add(name)
        values[name] = jax.tree.leaves(result)
        for got, want in zip(values[name], values["ours"], strict=True):
            message = f"at {size}x{latent}, {name} and ours differ"
            atol = 1e-4 * float(np.max(np.abs(want)))
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)
    seconds = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            if name in slow and number:
                continue
            # The previous peer's threads keep waiting for work for a while, at full speed.
            time.sleep(0.05)
            if name not in slow:
                call()
            # Short calls are repeated, so that the clock's error does not count.
            start, count = time.perf_counter(), 0
            while count == 0 or (time.perf_counter() - start < 0.02 and count < 50):
                call()
                count += 1
            seconds[name].append((time.perf_counter() - start) / count)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def _memory(name: str, size: int, latent: int, gradient: bool) -> int:
    """Peak MB of a process that computes once, less its peak after imports and a tiny call."""
    command = [sys.executable, "-m", "experiments.benchmarks.kl", f"--only={name}"]
    command += [f"--sizes={size}x{latent}", f"--gradient={gradient}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _print_memory(name: str, size: int, latent: int, gradient: bool) -> None:
    PEERS[name](*example(8, latent), gradient)()
    before = peak_megabytes()
    PEERS[name](*example(size, latent), gradient)()
    print(round(peak_megabytes() - before))


def parse_size(text: str) -> tuple[int, int]:
    """(M, d) of "MxD"; raises ValueError for anything else."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ValueError(f"sizes must be of the form MxD, such as 64x2, got {text!r}")
    return int(found[1]), int(found[2])


def main(argv: list[str]) -> None:
    """Prints one table."""
    del argv
    sizes = [parse_size(size) for size in cli.listed("sizes")]
    if FLAGS.only:
        _print_memory(FLAGS.only, *sizes[0], FLAGS.gradient)
        return
    names = usable()
    on_cpu = jax.default_backend() == "cpu"
    print(f"{machine()}; float32\n")
    peers = [name for name in names if name != "ours"]
    print(
        "| M x d | what | ours, ms | MB | " + " | ".join(f"{n}, ms (x ours)" for n in peers) + " |"
    )
    print("| --- | --- | ---: | ---: |" + " ---: |" * len(peers))
    for size, latent in tqdm(sizes, disable=None):
        forward = None
        for gradient in (False, True):
            medians = measure(size, latent, gradient, names, FLAGS.rounds)
            ours = medians["ours"]
            memory = _memory("ours", size, latent, gradient) if on_cpu else "-"
            what = f"and gradient ({ours / forward:.1f}x)" if gradient else "value"
            forward = forward or ours
            cells = [
                f"{medians[name]:.4g} ({medians[name] / ours:.2g}x)" if name in medians else "-"
                for name in peers
            ]
            row = [f"{size} x {latent}", what, f"{ours:.4g}", str(memory), *cells]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    cli.define_list("sizes", list(SIZES), "batch and latent size of each row, MxD")
    flags.DEFINE_integer("rounds", 5, "turns of each peer; the median is printed", lower_bound=1)
    flags.DEFINE_enum(
        "only",
        None,
        list(PEERS),
        "print only this peer's memory for the first of --sizes, in MB",
    )
    flags.DEFINE_bool("gradient", True, "with --only: compute the gradient, too")
    cli.run(main)
