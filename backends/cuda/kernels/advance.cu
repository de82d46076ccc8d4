// position += size, after `uniform`. A launch of its own: every thread of that one has to read the position before it moves.

extern "C" __global__ void advance(long long* position, long long size)
{
    NNBP_LOOP(i, 1) { position[i] += size; }
}
