"""Data-parallel training: many processes, one model. The only room that knows MPI (through mpi4py, an optional package).

Every rank holds a copy of the network and takes its share of each batch. The gradient of a mean over the whole batch is the
mean of the shares' gradients, so the ranks average their gradients, and each then takes the same step:

    g = (g_0 + g_1 + ... + g_{N−1})/N,        one Allreduce on one buffer that holds the gradients of all parameters

The copies start equal, by a broadcast, and stay equal, because every rank gets the same bits of the same sum. (Goyal et al.
2017, section 3; openai/improved-diffusion trains in this way.)

    comm = parallel.join()                                  # under mpiexec -n N python program.py
    with parallel.ending_together(comm):
        parallel.broadcast(comm, model.parameters(), adam)
        parallel.reseed(comm, rng, seed, 1)
        for step in train(..., rng, batch_size=128 // comm.size, average=partial(parallel.average_gradients, comm)):
            parallel.reseed(comm, rng, seed, step.step + 1)
"""

import os
import sys
import traceback
from contextlib import contextmanager

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require


def join():
    """The communicator of all ranks (mpi4py's COMM_WORLD). The ranks of one machine divide its threads among themselves.

    NUMBA_NUM_THREADS, where it is set, is the number of threads of each rank. Raises ValueError where mpi4py is missing."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = f"parallel: training on many processes needs mpi4py and an MPI: pip install 'scratchdiff[mpi]' ({error})"
        raise ValueError(why) from None
    comm = MPI.COMM_WORLD
    if "NUMBA_NUM_THREADS" not in os.environ:
        from scratchdiff.kernels.threads import use_threads

        linux = hasattr(os, "sched_getaffinity")  # elsewhere Python cannot say which cores are ours
        own = os.sched_getaffinity(0) if linux else set(range(os.cpu_count() or 1))
        use_threads(threads_of_rank(own, comm.Split_type(MPI.COMM_TYPE_SHARED).allgather(own)))
    return comm


def threads_of_rank(own: set, of_machine: list[set]) -> int:
    """How many threads a rank on the cores `own` may use: it divides them with the ranks of its machine that run on any of
    them. of_machine: the cores of each rank of the machine, its own too. (Open MPI and Slurm give each rank other cores.)"""
    sharing = sum(not own.isdisjoint(cores) for cores in of_machine)
    return max(1, len(own) // sharing)


def share_of_batch(comm, batch_size: int) -> int:
    """How many examples of each batch are this rank's. Raises ValueError unless the ranks divide the batch."""
    require(batch_size % comm.size == 0, f"parallel: {comm.size} ranks do not divide a batch of {batch_size}")
    return batch_size // comm.size


def broadcast(comm, parameters: dict[str, Tensor], optimizer) -> None:
    """Give every rank the weights and the optimiser's moments and step of rank 0."""
    for name, p in parameters.items():
        for a in (p.data, optimizer.m[name], optimizer.v[name]):
            whole = np.ascontiguousarray(a)
            comm.Bcast(whole)
            a[...] = whole
    optimizer.k = comm.bcast(optimizer.k)


def reseed(comm, rng: np.random.Generator, seed: int, step: int) -> None:
    """Set rng to the stream of random numbers of this rank for one step.

    Then the draws of a step depend on nothing that came before it, and a run resumes as if it had never stopped, without
    the states of all ranks in the checkpoint. Resumed with another number of ranks it draws other examples and noise."""
    rng.bit_generator.state = np.random.default_rng([seed, step, comm.rank]).bit_generator.state


def average_gradients(comm, parameters: dict[str, Tensor], loss: float) -> float:
    """Replace every gradient by its mean over all ranks; return the mean loss.

    A parameter without a gradient on this rank counts as zero. A rank whose own numbers are not finite exchanges nothing:
    `train` then raises its error there, which names the step and the op, and `ending_together` stops the other ranks."""
    grads = [np.zeros_like(p.data) if p.grad is None else p.grad for p in parameters.values()]
    own = np.concatenate([g.ravel() for g in grads] + [np.array([loss], grads[0].dtype)])
    if not np.isfinite(own).all():
        return loss
    mean = np.empty_like(own)
    comm.Allreduce(own, mean)
    mean /= comm.size
    for p, part in zip(parameters.values(), np.split(mean, np.cumsum([g.size for g in grads]))):
        p.grad = part.reshape(p.shape)
    return float(mean[-1])


def agree(comm, signal: int | None) -> int:
    """The largest signal that any rank has received, or 0: all ranks stop after the same step."""
    return max(comm.allgather(signal or 0))


@contextmanager
def ending_together(comm):
    """`with ending_together(comm):` an error in one rank ends all of them. The rank says what was wrong; the others would
    wait for its gradients for ever."""
    try:
        yield
    except BaseException as error:
        if comm.size == 1:
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError, MemoryError))
        text = " ".join(str(error).split()) if expected else traceback.format_exc()
        print(f"scratchdiff: rank {comm.rank} of {comm.size}: {text}", file=sys.stderr, flush=True)
        comm.Abort(2)
