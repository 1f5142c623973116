/* int8 and int16 average and maximum pooling. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "values.h"
#include "window.h"

typedef struct {
    embarq_taps rows, columns;
    int32_t corner; /* element of the window's tap (0, 0), channel 0, which may lie outside the image */
} place;

static place locate(const embarq_window *w, int32_t image, int32_t y, int32_t x)
{
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const place at = {
        embarq_taps_inside(top, w->kernel_h, 1, w->in_h),
        embarq_taps_inside(left, w->kernel_w, 1, w->in_w),
        image + (top * w->in_w + left) * w->in_c,
    };
    return at;
}

/* total / count to the nearest integer, halves away from zero */
static int32_t divide(int32_t total, int32_t count)
{
    return (total >= 0 ? total + count / 2 : total - count / 2) / count;
}

static int32_t mean(const embarq_pool_int_params *p, const void *in, const place *at, int32_t c)
{
    const embarq_window *w = &p->window;
    const int32_t inside = (at->rows.end - at->rows.first) * (at->columns.end - at->columns.first);
    int32_t total = 0;
    for (int32_t i = at->rows.first; i < at->rows.end; i++) {
        int32_t from = at->corner + (i * w->in_w + at->columns.first) * w->in_c + c;
        for (int32_t j = at->columns.first; j < at->columns.end; j++, from += w->in_c) {
            total += embarq_load(in, from, p->item);
        }
    }
    if (!p->count_pad) {
        return divide(total, inside);
    }
    return divide(total - inside * p->zero_point, w->kernel_h * w->kernel_w) + p->zero_point;
}

static int32_t largest(const embarq_pool_int_params *p, const void *in, const place *at, int32_t c)
{
    const embarq_window *w = &p->window;
    int32_t best = INT16_MIN;
    for (int32_t i = at->rows.first; i < at->rows.end; i++) {
        int32_t from = at->corner + (i * w->in_w + at->columns.first) * w->in_c + c;
        for (int32_t j = at->columns.first; j < at->columns.end; j++, from += w->in_c) {
            best = embarq_max(best, embarq_load(in, from, p->item));
        }
    }
    return best;
}

static void pool(const embarq_pool_int_params *p, const embarq_memory *memory,
                 int32_t (*value)(const embarq_pool_int_params *, const void *, const place *, int32_t))
{
    const embarq_window *w = &p->window;
    const void *in = embarq_at(memory, p->input); /* [batch][in_h][in_w][in_c] */
    void *out = embarq_at(memory, p->output);     /* [batch][out_h][out_w][in_c] */
    int32_t next = 0;

    for (int32_t n = 0; n < w->batch; n++) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++) {
                const place at = locate(w, n * w->in_h * w->in_w * w->in_c, y, x);
                for (int32_t c = 0; c < w->in_c; c++) {
                    embarq_store(out, next++, p->item, embarq_clamp(value(p, in, &at, c), p->low, p->high));
                }
            }
        }
    }
}

void embarq_avg_pool_int(const void *params, const embarq_memory *memory)
{
    pool(params, memory, mean);
}

void embarq_max_pool_int(const void *params, const embarq_memory *memory)
{
    pool(params, memory, largest);
}
