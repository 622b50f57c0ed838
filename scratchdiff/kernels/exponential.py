"""eᵃ and σ(v) in plain arithmetic, for use inside the other kernels. Optional to read."""

import numpy as np
from numba import njit, types
from numba.extending import overload

# exp(a) = 2ⁿ exp(r), a = n ln 2 + r with whole n and |r| <= ½ ln 2. There the Taylor polynomial of degree 7 is exact to
# 5e-9 of its value and that of degree 13 to 4e-18: less than float32 and float64 round. The libraries' exp is as exact but
# is called for one number at a time; this is plain arithmetic, which the compiler does on 8 or 16 numbers at a time.
# Adding 1.5·2²³ to a float32 (1.5·2⁵² to a float64) rounds it to a whole number n and leaves n in its lowest bits; moved
# up to where the exponent is kept, they make 2ⁿ. ln 2 is taken off in two pieces, the first with so few bits that n times
# it is exact. Past either end the result is 0 or infinity, and NaN stays NaN. In float32 the error was measured as 8e-8
# of the value; in float64 the tests hold SiLU as a whole to 1e-14.


@njit(error_model="numpy", fastmath={"contract"})
def exp32(a):
    """eᵃ of a float32."""
    f = np.float32
    a = f(-88) if a < f(-88) else a
    a = f(89) if a > f(89) else a
    t = a * f(1.4426950408889634) + f(12582912)
    n = t - f(12582912)
    r = (a - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = f(1 / 5040) * r + f(1 / 720)
    p = p * r + f(1 / 120)
    p = p * r + f(1 / 24)
    p = p * r + f(1 / 6)
    p = p * r + f(1 / 2)
    p = p * r + f(1)
    p = p * r + f(1)
    return p * np.int32((f(t).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(error_model="numpy", fastmath={"contract"})
def exp64(a):
    """eᵃ of a float64."""
    a = -709.0 if a < -709.0 else a
    a = 710.0 if a > 710.0 else a
    t = a * 1.4426950408889634 + 6755399441055744.0
    n = t - 6755399441055744.0
    r = (a - n * 0.693145751953125) - n * 1.42860682030941723212e-6
    p = r / 6227020800 + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = p * r + 1
    p = p * r + 1
    return p * np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)


def exp(a):
    """eᵃ of a float32 or a float64. Numba compiles the overload below in its place."""
    return np.exp(a)


@overload(exp)
def choose_exp(a):
    """What Numba compiles for `exp` of this dtype."""
    if a == types.float32:
        return lambda a: exp32(a)
    return lambda a: exp64(a)


def logistic(v):
    """σ(v) = 1/(1 + e⁻ᵛ) of a float32 or a float64. Numba compiles the overload below in its place."""
    return 1 / (1 + np.exp(-v))


@overload(logistic)
def choose_logistic(v):
    """What Numba compiles for `logistic` of this dtype."""
    if v == types.float32:
        return lambda v: np.float32(1) / (np.float32(1) + exp32(-v))
    return lambda v: 1 / (1 + exp64(-v))
