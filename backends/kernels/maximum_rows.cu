// out[j] = max_i a[i, j]: one thread a column, so that neighbouring threads read neighbouring numbers.

extern "C" __global__ void maximum_rows(
    const T* a, T* out, I rows, I columns, I row_stride, I column_stride, I out_stride)
{
    NNBP_LOOP(j, columns)
    {
        const T* column = a + j * column_stride;
        T largest = column[0];
        for (I i = 1; i < rows; ++i) {
            largest = nnbp_max(largest, column[i * row_stride]);
        }
        out[j * out_stride] = largest;
    }
}
