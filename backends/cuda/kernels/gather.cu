// out[i, j] = source[order[counter * stride + i], j]. A row beyond the source is its last, below 0 its first, as with
// numpy.take(mode="clip"): a wrong order then gives wrong rows, and never touches memory that is not ours.

extern "C" __global__ void gather(
    const T* source, const long long* order, const long long* counter, T* out,
    long long stride, long long source_rows, long long row_stride, I columns, I size)
{
    const long long* rows = order + counter[0] * stride;
    NNBP_LOOP(k, size)
    {
        const I i = k / columns;
        long long row = rows[i];
        row = row < 0 ? 0 : row < source_rows ? row : source_rows - 1;
        out[k] = source[row * row_stride + (k - i * columns)];
    }
}
