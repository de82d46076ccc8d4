/* Walks a program: records of calls into NumPy's inner loops and into BLAS, on arrays that stay where they are.

   A program is made by program.py, which knows what each record means; nothing is checked here. There is no Python in
   this file: it is called without Python's lock, and one library serves all versions of Python. */

#define _POSIX_C_SOURCE 200112L /* clock_gettime, sched_yield */

#include <fenv.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32
#include <windows.h>
#define EXPORT __declspec(dllexport)
#else
#include <sched.h>
#define EXPORT __attribute__((visibility("default")))
#endif

#define QUOTE(text) #text
#define TEXT(name) QUOTE(name)

/* The hash of this file, by which an outdated library is noticed. */
EXPORT const char *nnbp_source(void) { return TEXT(NNBP_SOURCE); }

enum { LOOP, CONVERT, SELECT, PRODUCT, VECTOR_PRODUCT, DOT, GATHER, UNIFORM, REPEAT };

/* One call: `rows` times on `length` elements. strides are the bytes from an element to the next, steps those from a
   row to the next, width the bytes of a number, cost an estimate of nanoseconds, advance the bytes from one time to the
   next if the call is repeated. Each kind says below what else it makes of the fields. */
typedef struct {
    int64_t kind;
    void *function, *context, *auxiliary;
    char *data[4];
    int64_t strides[4], steps[4];
    int64_t length, rows, width, cost, advance[4];
} record;

typedef int (*strided_loop)(void *, char *const *, const intptr_t *, const intptr_t *, void *);

/* A ufunc's inner loop on up to four arrays. */
static void loop(const record *r, int64_t time)
{
    intptr_t length = r->length, strides[4];
    char *data[4];
    for (int k = 0; k < 4; k++) {
        data[k] = r->data[k] + time * r->advance[k];
        strides[k] = r->strides[k];
    }
    for (int64_t row = 0; row < r->rows; row++) {
        ((strided_loop)r->function)(r->context, data, &length, strides, r->auxiliary);
        for (int k = 0; k < 4; k++)
            data[k] += r->steps[k];
    }
}

/* data[1], numbers of `width` bytes, = data[0], truth values or numbers of as many bytes as `context` says. */
#define CONVERT_FROM(FROM, TO)                                                                                         \
    for (int64_t i = 0; i < r->length; i++, from += r->strides[0], to += r->strides[1])                                \
        *(TO *)to = (TO) * (const FROM *)from;
static void convert(const record *r, int64_t time)
{
    for (int64_t row = 0; row < r->rows; row++) {
        const char *from = r->data[0] + time * r->advance[0] + row * r->steps[0];
        char *to = r->data[1] + time * r->advance[1] + row * r->steps[1];
        switch ((intptr_t)r->context * 16 + r->width) {
        case 1 * 16 + 4: CONVERT_FROM(uint8_t, float) break;
        case 1 * 16 + 8: CONVERT_FROM(uint8_t, double) break;
        case 4 * 16 + 8: CONVERT_FROM(float, double) break;
        case 8 * 16 + 4: CONVERT_FROM(double, float) break;
        }
    }
}

/* data[2] = data[1] where the truth value data[0] differs from `auxiliary`; elsewhere data[2] stays as it is. */
static void select_values(const record *r, int64_t time)
{
    const char unless = r->auxiliary != NULL;
    for (int64_t row = 0; row < r->rows; row++) {
        const char *chosen = r->data[0] + time * r->advance[0] + row * r->steps[0];
        const char *from = r->data[1] + time * r->advance[1] + row * r->steps[1];
        char *to = r->data[2] + time * r->advance[2] + row * r->steps[2];
        for (int64_t i = 0; i < r->length; i++) {
            const int take = *chosen != unless;
            if (r->width == 4)
                *(int32_t *)to = take ? *(const int32_t *)from : *(int32_t *)to;
            else
                *(int64_t *)to = take ? *(const int64_t *)from : *(int64_t *)to;
            chosen += r->strides[0], from += r->strides[1], to += r->strides[2];
        }
    }
}

/* BLAS, with integers of 32 or of 64 bits. `width` is the size of a number; context is not null if BLAS's integers have
   64 bits. strides hold the leading dimensions, steps the sizes, length and rows the two flags for a transpose. */
enum { ROW_MAJOR = 101, COLUMN_MAJOR = 102, AS_IT_IS = 111, TRANSPOSED = 112 };

#define BLAS(INTEGER, SUFFIX)                                                                                          \
    static void product_##SUFFIX(const record *r)                                                                      \
    {                                                                                                                  \
        const INTEGER m = (INTEGER)r->steps[0], n = (INTEGER)r->steps[1], k = (INTEGER)r->steps[2];                    \
        const INTEGER lda = (INTEGER)r->strides[0], ldb = (INTEGER)r->strides[1], ldc = (INTEGER)r->strides[2];        \
        const int ta = r->length ? TRANSPOSED : AS_IT_IS, tb = r->rows ? TRANSPOSED : AS_IT_IS;                        \
        if (r->width == 4)                                                                                             \
            ((void (*)(int, int, int, INTEGER, INTEGER, INTEGER, float, const void *, INTEGER, const void *, INTEGER,  \
                       float, void *, INTEGER))r->function)(ROW_MAJOR, ta, tb, m, n, k, 1.0f, r->data[0], lda,         \
                                                            r->data[1], ldb, 0.0f, r->data[2], ldc);                   \
        else                                                                                                           \
            ((void (*)(int, int, int, INTEGER, INTEGER, INTEGER, double, const void *, INTEGER, const void *, INTEGER, \
                       double, void *, INTEGER))r->function)(ROW_MAJOR, ta, tb, m, n, k, 1.0, r->data[0], lda,         \
                                                             r->data[1], ldb, 0.0, r->data[2], ldc);                   \
    }                                                                                                                  \
    static void vector_product_##SUFFIX(const record *r)                                                               \
    {                                                                                                                  \
        const INTEGER m = (INTEGER)r->steps[0], n = (INTEGER)r->steps[1], lda = (INTEGER)r->strides[0];                \
        const INTEGER step = (INTEGER)r->strides[1];                                                                   \
        const int order = r->rows ? COLUMN_MAJOR : ROW_MAJOR, transposed = r->length ? TRANSPOSED : AS_IT_IS;          \
        if (r->width == 4)                                                                                             \
            ((void (*)(int, int, INTEGER, INTEGER, float, const void *, INTEGER, const void *, INTEGER, float, void *, \
                       INTEGER))r->function)(order, transposed, m, n, 1.0f, r->data[0], lda, r->data[1], step, 0.0f,   \
                                             r->data[2], 1);                                                           \
        else                                                                                                           \
            ((void (*)(int, int, INTEGER, INTEGER, double, const void *, INTEGER, const void *, INTEGER, double,       \
                       void *, INTEGER))r->function)(order, transposed, m, n, 1.0, r->data[0], lda, r->data[1], step,  \
                                                     0.0, r->data[2], 1);                                              \
    }                                                                                                                  \
    static void dot_##SUFFIX(const record *r)                                                                          \
    {                                                                                                                  \
        const INTEGER n = (INTEGER)r->steps[0], dx = (INTEGER)r->strides[0], dy = (INTEGER)r->strides[1];              \
        if (r->width == 4)                                                                                             \
            *(float *)r->data[2] = ((float (*)(INTEGER, const void *, INTEGER, const void *, INTEGER))r->function)(    \
                n, r->data[0], dx, r->data[1], dy);                                                                    \
        else                                                                                                           \
            *(double *)r->data[2] = ((double (*)(INTEGER, const void *, INTEGER, const void *, INTEGER))r->function)(  \
                n, r->data[0], dx, r->data[1], dy);                                                                    \
    }

BLAS(int32_t, 32)
BLAS(int64_t, 64)

/* Rows of data[0] to data[3], as the order data[1] says from counter data[2] · steps[2] + steps[1] on. A row has steps[3]
   bytes and is strides[0] bytes from the next; there are width rows, and strides[1] numbers in the order. */
static int gather(const record *r)
{
    const int64_t first = *(const int64_t *)r->data[2] * r->steps[2] + r->steps[1], bytes = r->steps[3];
    if (first < 0 || first + r->rows > r->strides[1])
        return 0;
    const int64_t *order = (const int64_t *)r->data[1] + first;
    char *to = r->data[3];
    for (int64_t i = 0; i < r->rows; i++, to += bytes) {
        const int64_t index = order[i] < 0 ? 0 : order[i] < r->width ? order[i] : r->width - 1;
        memcpy(to, r->data[0] + index * r->strides[0], (size_t)bytes);
    }
    return 1;
}

/* The next `length` numbers of a bit generator's state data[0], as NumPy makes float32 numbers of them, to data[1];
   data[2] counts the numbers drawn. */
static void uniform(const record *r)
{
    uint32_t (*next)(void *) = (uint32_t(*)(void *))r->function;
    float *out = (float *)r->data[1];
    for (int64_t i = 0; i < r->length; i++)
        out[i] = (float)(next(r->data[0]) >> 8) * (1.0f / 16777216.0f);
    *(int64_t *)r->data[2] += r->length;
}

/* The `length` records that follow, `rows` times, each time at other addresses. */
static void repeat(const record *r)
{
    for (int64_t time = 0; time < r->rows; time++)
        for (const record *s = r + 1; s <= r + r->length; s++)
            switch (s->kind) {
            case LOOP: loop(s, time); break;
            case CONVERT: convert(s, time); break;
            case SELECT: select_values(s, time); break;
            }
}

static int64_t nanoseconds(void)
{
#ifdef _WIN32
    return (int64_t)GetTickCount64() * 1000000;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

enum { DONE, PAUSED, FAILED };

/* Estimated nanoseconds between two looks at the clock. */
enum { UNCHECKED = 200000 };

/* Records that one thread walks in order; `at` is the next one, `count` if all are done. */
typedef struct {
    const record *records;
    int64_t count, at;
} part;

/* A program: phases, of which phase k has the parts from first[k] to first[k + 1]. They may run in any order or at the
   same time, but a phase begins when the one before has ended. A turn is one phase of one run. Until the time `alone`
   no help is taken. */
typedef struct {
    part *parts;
    const int64_t *first;
    int64_t phases, turn, end, alone, apart[8];
    /* The turn that may be joined · 256 + its next part; negative when the helpers are to return. */
    _Atomic int64_t claim;
    int64_t also_apart[8];
    /* The number of parts of this turn that no thread walks any more, and how one of them ended if it is not done. */
    _Atomic int64_t left, result;
} program;

/* Walks a part until it is done, fails, or pauses after the time `end`; `unchecked` is kept from part to part. */
static int walk(part *p, int64_t *unchecked, int64_t end)
{
    int64_t i = p->at;
    int result = DONE;
    for (; i < p->count; i++) {
        const record *r = p->records + i;
        const int wide = r->context != NULL;
        if (*unchecked > UNCHECKED) {
            *unchecked = 0;
            if (nanoseconds() > end) {
                result = PAUSED;
                break;
            }
        }
        *unchecked += r->cost;
        switch (r->kind) {
        case LOOP: loop(r, 0); break;
        case CONVERT: convert(r, 0); break;
        case SELECT: select_values(r, 0); break;
        case PRODUCT: wide ? product_64(r) : product_32(r); break;
        case VECTOR_PRODUCT: wide ? vector_product_64(r) : vector_product_32(r); break;
        case DOT: wide ? dot_64(r) : dot_32(r); break;
        case GATHER: result = gather(r) ? DONE : FAILED; break;
        case UNIFORM: uniform(r); break;
        case REPEAT:
            repeat(r);
            i += r->length;
            break;
        }
        if (result == FAILED)
            break;
    }
    p->at = i;
    return result;
}

/* Walks parts that nobody has claimed yet, as long as there are any in the turn that may be joined. */
static void join(program *p, int64_t *unchecked)
{
    for (;;) {
        int64_t claim = atomic_load(&p->claim);
        if (claim < 0)
            return;
        const int64_t phase = (claim >> 8) % p->phases, next = p->first[phase] + (claim & 255);
        if (next >= p->first[phase + 1])
            return;
        if (!atomic_compare_exchange_weak(&p->claim, &claim, claim + 1))
            continue;
        const int result = walk(p->parts + next, unchecked, p->end);
        if (result != DONE)
            atomic_store(&p->result, result);
        atomic_fetch_add(&p->left, 1);
    }
}

/* Waits a moment: 256 times the processor does nothing, from then on other threads may have it. */
static void wait_a_moment(int *waited)
{
    if (*waited >= 256) {
#ifdef _WIN32
        SwitchToThread();
#else
        sched_yield();
#endif
        return;
    }
    ++*waited;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Walks all parts of a turn together with whoever helps. A helper that loses its processor in the middle of a part is
   waited for in vain: then this thread goes on alone for so long that it loses a tenth of its time at most. */
static int share(program *p, int64_t count, int64_t *unchecked)
{
    const int64_t start = nanoseconds();
    atomic_store(&p->result, DONE);
    atomic_store(&p->left, 0);
    atomic_store(&p->claim, p->turn * 256);
    join(p, unchecked);
    const int64_t joined = nanoseconds();
    for (int waited = 0; atomic_load(&p->left) < count;)
        wait_a_moment(&waited);
    const int64_t end = nanoseconds(), lost = end - joined;
    if (lost > joined - start)
        p->alone = end + 10 * lost;
    return (int)atomic_load(&p->result);
}

/* Runs a program `times` times, from its first turn if `anew`, else from where it paused. After `budget` nanoseconds it
   pauses between two records, so that the caller can see to signals. Threads that have called `nnbp_help` take parts;
   it does not wait for any of them to come. */
EXPORT int nnbp_run(program *p, int64_t times, int64_t budget, int anew)
{
    const int64_t turns = times * p->phases;
    int64_t unchecked = 0;
    int result = DONE;
    if (anew) {
        p->turn = 0;
        for (int64_t i = 0; i < p->first[p->phases]; i++)
            p->parts[i].at = 0;
    }
    p->end = nanoseconds() + budget;
    for (int64_t phase = p->turn % p->phases; p->turn < turns; p->turn++) {
        part *parts = p->parts + p->first[phase];
        const int64_t count = p->first[phase + 1] - p->first[phase];
        if (count > 1 && nanoseconds() >= p->alone)
            result = share(p, count, &unchecked);
        else
            for (int64_t i = 0; i < count && result == DONE; i++)
                result = walk(parts + i, &unchecked, p->end);
        if (result != DONE)
            break;
        for (int64_t i = 0; i < count; i++)
            parts[i].at = 0;
        phase = phase + 1 == p->phases ? 0 : phase + 1;
    }
    /* NumPy's loops and BLAS raise flags that nobody asked for. */
    feclearexcept(FE_ALL_EXCEPT);
    return result;
}

/* Nanoseconds without work after which a helper returns: whoever called it may never run the program. */
enum { PATIENCE = 100000000 };

/* Takes parts of a program that another thread runs, until `claim` is negative or there has long been nothing to do. */
EXPORT void nnbp_help(program *p)
{
    int64_t unchecked = 0, last = -1, end = 0;
    int waited = 0;
    for (int64_t claim; (claim = atomic_load(&p->claim)) >= 0;) {
        join(p, &unchecked);
        if (claim != last) {
            last = claim;
            end = nanoseconds() + PATIENCE;
            waited = 0;
        } else if (nanoseconds() > end)
            break;
        wait_a_moment(&waited);
    }
    feclearexcept(FE_ALL_EXCEPT);
}
