// The stream of numpy.random.Generator(numpy.random.Philox(key=...)).random(dtype=float32), from any position.
// Philox4x64-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

typedef unsigned long long Word;

__device__ inline void philox4x64_10(Word counter, Word key0, Word key1, Word* x)
{
    x[0] = counter;
    x[1] = x[2] = x[3] = 0;
    for (int round = 0; round < 10; ++round) {
        const Word high0 = __umul64hi(0xD2E7470EE14C6C93ULL, x[0]), low0 = 0xD2E7470EE14C6C93ULL * x[0];
        const Word high1 = __umul64hi(0xCA5A826395121157ULL, x[2]), low1 = 0xCA5A826395121157ULL * x[2];
        x[0] = high1 ^ x[1] ^ key0;
        x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1;
        x[3] = low0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
}

// A block of the generator is four words, eight numbers: of each word the low half first, of each half its upper 24
// bits. One thread computes a block. NumPy counts up before it draws, so block 0 has counter 1. The rows of out are
// those of a matrix of `total` columns, from its column `offset` on; a row may begin inside a block.
extern "C" __global__ void uniform(const long long* position, float* out, I rows, I columns, long long offset,
                                   long long total, Word key0, Word key1)
{
    const I blocks = (columns + 14) / 8;
    NNBP_LOOP(item, rows * blocks)
    {
        const I row = item / blocks, block = item % blocks;
        const long long start = position[0] + offset + (long long)row * total;
        const I skipped = I(start % 8);
        Word x[4];
        philox4x64_10(Word(start / 8) + Word(block) + 1, key0, key1, x);
        for (int j = 0; j < 8; ++j) {
            const I i = 8 * block + j - skipped;
            if (i >= 0 && i < columns) {
                const unsigned int half = (unsigned int)(j % 2 ? x[j / 2] >> 32 : x[j / 2]);
                out[row * columns + i] = float(half >> 8) * (1.0f / 16777216.0f);
            }
        }
    }
}
