"""Matrix products, without a BLAS. Shared by the other kernels. Optional to read.

A BLAS is made for large matrices: it first copies both factors into an order of its own. And it is fast only on the
processors that it knows. Our matrices are small (some hundred rows, some hundred columns), they are in the cache already,
and we may lay them out as we like. So we multiply them where they lie, and Numba compiles the loop for whatever processor
is there.

Y is computed in tiles of a few rows, one vector wide. A tile stays in the processor's registers while we go through the sum
Y[i, j] = Σ_k A[i, k] B[k, j]   (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; we leave out
the copying that they also describe). For each k we load one vector of B, and for each row one number of A:

    for k in range(K):
        for r in range(rows):
            tile[r] += A[i + r, k] * B[k, j : j + lanes]

`tile_of(rows)` is this loop, put together from LLVM's instructions, because Numba has no vectors to write it with.
"""

# pyright: reportAttributeAccessIssue=false

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from scratchdiff.kernels.compiling import choose_cache_folder

choose_cache_folder()  # before the first @njit below asks for it

VECTOR = 64  # bytes: one register of AVX-512, two of AVX2, four of ARM's NEON
MOST_TERMS = 256  # of a sum at a time: so many vectors of B fit into the first-level cache


def tile_of(rows):
    """The function that computes one tile: Y[i : i + rows] = A[i : i + rows] B + bias, or with `add`
    Y[i : i + rows] += A[i : i + rows] B.   B, Y and bias are one vector wide."""

    @intrinsic
    def tile(_, A, B, Y, bias, i, add):
        if len({M.dtype for M in (A, B, Y, bias)}) > 1:
            raise TypingError(f"multiply: the matrices must have one dtype, got {A}, {B}, {Y}, {bias}")

        def instructions(context, builder, signature, arguments):
            kinds, (i, add) = signature.args[:4], arguments[4:]
            A, B, Y, bias = (context.make_array(kind)(context, builder, a) for kind, a in zip(kinds, arguments))
            kind_of = dict(zip((A, B, Y, bias), kinds))
            number = context.get_data_type(signature.args[0].dtype)
            size = context.get_abi_sizeof(number)
            vector = ir.VectorType(number, VECTOR // size)
            lane = ir.IntType(32)

            def at(content, M, *place):
                pointer = cgutils.get_item_pointer(context, builder, kind_of[M], M, place, wraparound=False)
                return builder.bitcast(pointer, content.as_pointer())

            def broadcast(value):
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, lane(0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(lane, vector.count), [0] * vector.count))

            def hidden(address):
                # The compiler must not see how the address comes about: it would compute each row's address from that of
                # the row before, one addition waiting for the other.
                return builder.asm(ir.FunctionType(i.type, [i.type]), "", "=r,0", [address], side_effect=False)

            zero, own_rows = i.type(0), [builder.add(i, i.type(r)) for r in range(rows)]
            places = [at(vector, Y, row, zero) for row in own_rows]
            totals = [cgutils.alloca_once(builder, vector) for _ in places]
            for total, place in zip(totals, places):
                start = builder.select(add, place, at(vector, bias, zero))
                builder.store(builder.load(start, align=size), total)
            _, terms = cgutils.unpack_tuple(builder, A.shape)
            row_step, term_step = cgutils.unpack_tuple(builder, A.strides)
            firsts = [hidden(builder.ptrtoint(at(number, A, row, zero), i.type)) for row in own_rows[::6]]
            with cgutils.for_range(builder, terms) as loop:
                b = builder.load(at(vector, B, loop.index, zero), align=size)
                for r, total in enumerate(totals):
                    address = builder.add(firsts[r // 6], builder.mul(loop.index, term_step))
                    address = builder.add(address, builder.mul(row_step, i.type(r % 6)))
                    a = broadcast(builder.load(builder.inttoptr(address, number.as_pointer())))
                    product = builder.fmul(a, b, flags=["contract"])
                    builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
            for total, place in zip(totals, places):
                builder.store(builder.load(total), place, align=size)
            return context.get_dummy_value()

        return types.void(A, B, Y, bias, types.intp, types.boolean), instructions

    return tile


# With AVX2 as many rows as fit into its 16 registers, two for each. With AVX-512, which has 32 of the double width, enough
# to keep the multipliers busy: a row's next addition waits for its last one, and meanwhile the other rows are at work.
ROWS = 12 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2] else 6
most_rows, four_rows, one_row = tile_of(ROWS), tile_of(4), tile_of(1)


@njit(cache=True, error_model="numpy")
def multiply(A, B, Y, bias, add):
    """Y = A B + bias, or with `add` Y += A B.   A: (n, K) in any order of memory, B: (K, m), Y: (n, m), bias (m,).

    B comes cut into vectors, (K, m/lanes, lanes), and the lanes of a vector lie side by side in memory. So m must be a whole
    number of vectors. B and bias may be longer; what is beyond m is not read. Nothing checks these sizes. Raises TypingError
    for two dtypes."""
    n, K = A.shape
    lanes = B.shape[2]
    for first in range(0, max(1, K), MOST_TERMS):
        a = A[:, first : first + MOST_TERMS]
        for p in range(Y.shape[1] // lanes):
            b = B[first : first + MOST_TERMS, p]
            y, start = Y[:, p * lanes : (p + 1) * lanes], bias[p * lanes : (p + 1) * lanes]
            i = 0
            while n - i >= ROWS and n - i != 8:  # 8 = 4 + 4
                most_rows(a, b, y, start, i, add or first > 0)
                i += ROWS
            while n - i >= 4:
                four_rows(a, b, y, start, i, add or first > 0)
                i += 4
            while i < n:
                one_row(a, b, y, start, i, add or first > 0)
                i += 1


@njit(cache=True)
def vectors(M):
    """The rows of a matrix cut into vectors, as a view. They must be a whole number of vectors long."""
    lanes = VECTOR // M.itemsize
    return M.reshape(len(M), M.shape[1] // lanes, lanes)


@njit(cache=True)
def transposed(M):
    """Mᵀ as a copy, with columns of zeros added until a row is as long as `apart` says."""
    T = np.zeros((M.shape[1], apart(len(M), M)), M.dtype)
    for i in range(len(M)):
        row = M[i]
        for k in range(len(row)):
            T[k, i] = row[k]
    return T


def whole(m, M):
    """The least number of columns, m or more, that are whole vectors of M's numbers."""
    lanes = VECTOR // M.itemsize
    return -(-m // lanes) * lanes


@njit(cache=True)
def apart(m, M):
    """As `whole`, but a row is no multiple of 256 bytes: the cache has few places for numbers that are so far apart."""
    lanes = VECTOR // M.itemsize
    count = -(-m // lanes)
    return (count + 1 if count % 4 == 0 else count) * lanes


def widen(M):
    """M with columns of zeros added until a row is a whole number of vectors; M itself if it is."""
    m = M.shape[-1]
    if m == whole(m, M):
        return np.ascontiguousarray(M)
    wide = np.zeros((*M.shape[:-1], whole(m, M)), M.dtype)
    wide[..., :m] = M
    return wide


def narrow(M, m: int):
    """The first m columns: `widen` backwards."""
    return np.ascontiguousarray(M[..., :m])
