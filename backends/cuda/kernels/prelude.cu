// What every kernel begins with, after `typedef ... T;` (float or double) and `typedef ... I;` (int or long long).
// Also compiled as C++ by the tests, which define the few words of CUDA that stand here.

// NVRTC has no <math.h>.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif

// A loop over i = 0 ... n - 1, shared by all threads of the grid: right for any size of the grid.
#define NNBP_LOOP(i, n) \
    for (I i = I(blockIdx.x) * I(blockDim.x) + I(threadIdx.x); i < (n); i += I(blockDim.x) * I(gridDim.x))

// Memory that the threads of a block share. A kernel that holds several others has one piece of it for all, and so says
// itself what this is; whatever uses it waits for the whole block after it has read it for the last time.
#ifndef NNBP_SHARED
#define NNBP_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#endif

// As NumPy's sign, maximum and minimum: NaN comes through. (fmax and fmin drop it.)
__device__ inline T nnbp_sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x; }
__device__ inline T nnbp_max(T x, T y) { return x >= y || x != x ? x : y; }
__device__ inline T nnbp_min(T x, T y) { return x <= y || x != x ? x : y; }

// The upper half of a float, rounded to the nearest, ties to even; NaN stays NaN.
struct nnbp_bf16 {
    unsigned short bits;
    __device__ inline nnbp_bf16& operator=(float x)
    {
        const unsigned int all = __float_as_uint(x);
        bits = x == x ? (unsigned short)((all + 0x7fffu + ((all >> 16) & 1u)) >> 16) : (unsigned short)0x7fffu;
        return *this;
    }
};
