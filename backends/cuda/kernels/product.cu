// out = a b, by tiles of at most 64 x 64; a (n, k), b (k, m), out (n, m). For small matrices, in step with other kernels.
//
// A block copies 32 columns of a and 32 rows of b at a time, in whatever order they are stored, to shared memory. A thread
// computes a cell of 4 x 4 numbers; where there are more threads than cells, several share a cell, each with its part of
// the terms. A sum is always taken in the same order, which depends on the sizes of the tile and the block alone.

enum { DEPTH = 32, PITCH = 68 };

// into[l, i] = from[i * step + l * deep] for l < depth, and i < count; zeros follow up to a multiple of 4.
__device__ inline void nnbp_tile(T* into, const T* from, int count, int depth, I step, I deep)
{
    const int lane = int(threadIdx.x) % 32, line = int(threadIdx.x) / 32, lines = int(blockDim.x) / 32;
    const int padded = (count + 3) / 4 * 4;
    // Neighbouring threads read neighbours in memory.
    if (deep == 1) {
        for (int i = line; i < padded; i += lines)
            if (lane < depth) into[lane * PITCH + i] = i < count ? from[i * step + lane] : T(0);
    } else {
        for (int l = line; l < depth; l += lines)
            for (int i = lane; i < padded; i += 32) into[l * PITCH + i] = i < count ? from[i * step + l * deep] : T(0);
    }
}

extern "C" __global__ void product(
    const T* a, const T* b, T* out, I n, I k, I m,
    I a_row, I a_column, I b_row, I b_column, I out_row, int high, int wide)
{
    NNBP_SHARED(T, shared, 2 * DEPTH * PITCH);
    T *const left = shared, *const right = shared + DEPTH * PITCH;
    const int thread = int(threadIdx.x), threads = int(blockDim.x);
    const I across = (m + wide - 1) / wide, tiles = (n + high - 1) / high * across;
    for (I tile = blockIdx.x; tile < tiles; tile += I(gridDim.x)) {
        const I top = tile / across * high, first = (tile - tile / across * across) * wide;
        const int rows = int(n - top < high ? n - top : high), columns = int(m - first < wide ? m - first : wide);
        const int abreast = (columns + 3) / 4, cells = (rows + 3) / 4 * abreast;
        int shares = 1;
        while (2 * shares * cells <= threads && shares < DEPTH) shares *= 2;
        const int cell = thread % cells, share = thread / cells;
        const int y = cell / abreast * 4, x = (cell - cell / abreast * abreast) * 4;
        T sum[4][4] = {};
        for (I begin = 0; begin < k; begin += DEPTH) {
            const int depth = int(k - begin < DEPTH ? k - begin : DEPTH);
            nnbp_tile(left, a + top * a_row + begin * a_column, rows, depth, a_row, a_column);
            nnbp_tile(right, b + first * b_column + begin * b_row, columns, depth, b_column, b_row);
            __syncthreads();
            for (int l = share; share < shares && l < depth; l += shares) {
                T p[4], q[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) p[i] = left[l * PITCH + y + i], q[i] = right[l * PITCH + x + i];
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) sum[i][j] += p[i] * q[j];
            }
            __syncthreads();
        }
        if (share < shares) {
#pragma unroll
            for (int i = 0; i < 16; ++i) shared[(share * 16 + i) * cells + cell] = sum[i / 4][i % 4];
        }
        __syncthreads();
        for (int e = thread; e < 16 * cells; e += threads) {
            const int place = e / cells, of = e - place * cells, above = of / abreast;
            const int i = 4 * above + place / 4, j = 4 * (of - above * abreast) + place % 4;
            T value = shared[e];
            for (int s = 1; s < shares; ++s) value += shared[s * 16 * cells + e];
            if (i < rows && j < columns) out[(top + i) * out_row + first + j] = value;
        }
        __syncthreads();
    }
}
