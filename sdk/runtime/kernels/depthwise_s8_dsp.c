/* int8 depthwise convolution on cores with DSP instructions: row by row, four channels at a time, any kernel and stride. */
#include "bytes.h"
#include "depthwise_rows_s8_dsp.h"
#include "fixed.h"
#include "limits_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum { GROUP = 4, PAIR_BYTES = 16, SINGLE_BYTES = 8 };

typedef struct {
    const embarq_depthwise_s8_dsp_params *p;
    embarq_row3x3 *row3x3;
    void (*row)(embarq_row *row);
    const int8_t *image;            /* [in_h][in_w][channels] */
    int8_t *kept;                   /* [kept_rows][in_w][channels]: row y is copied to y % kept_rows before it is written over */
    int32_t saved;                  /* rows of the image that have been copied */
    uint32_t padding;               /* four zero points */
    int32_t pairs, single;          /* pairs of kernel rows, and whether one is left */
    int32_t first, count;           /* columns that lie inside the image */
    int32_t pair_next, single_next; /* bytes from column to column */
    uint8_t *pair_words, *single_words;
} work;

static int is_3x3(const embarq_window *w)
{
    return w->kernel_h == 3 && w->kernel_w == 3;
}

/* Row y of the image, or its copy. */
static const int8_t *image_row(const work *k, int32_t y)
{
    const int32_t line = k->p->window.in_w * k->p->window.in_c;
    return y < k->saved ? k->kept + y % k->p->kept_rows * line : k->image + y * line;
}

/* Row y of the image for the channels from c, or the zero point over and over. */
static const int8_t *input_row(const work *k, int32_t y, int32_t c, int32_t *step)
{
    const embarq_window *w = &k->p->window;
    if (y < 0 || y >= w->in_h) {
        *step = 0;
        return (const int8_t *)&k->padding;
    }
    *step = w->in_c;
    return image_row(k, y) + c;
}

/* Any kernel, any place: the columns of the channels from c. */
static void unpack(const work *k, int32_t top, int32_t c)
{
    uint32_t *pair = (uint32_t *)(void *)(k->pair_words + k->first * k->pair_next);
    uint32_t *single = (uint32_t *)(void *)(k->single_words + k->first * k->single_next);
    int32_t upper_step, lower_step;
    for (int32_t j = 0; j < k->pairs; j++) {
        const int8_t *upper = input_row(k, top + 2 * j, c, &upper_step), *lower = input_row(k, top + 2 * j + 1, c, &lower_step);
        embarq_columns2_s8(upper, lower, upper_step, pair + j * (PAIR_BYTES / 4), k->count, lower_step, k->pair_next);
    }
    if (k->single) {
        const int8_t *row = input_row(k, top + 2 * k->pairs, c, &upper_step);
        embarq_columns1_s8(row, upper_step, single, k->count, k->single_next);
    }
}

/* An output row of any kernel. */
static void row_any(const work *k, int32_t top, int8_t *out)
{
    const embarq_window *w = &k->p->window;
    const int32_t words = GROUP + w->kernel_w * (k->pairs * (PAIR_BYTES / 4) + k->single * (SINGLE_BYTES / 4)) + 3 * GROUP;
    const int32_t *stream = k->p->stream;
    for (int32_t c = 0; c < w->out_c; c += GROUP, stream += words) {
        unpack(k, top, c);
        embarq_row row = {
            stream, out + c, w->out_c,
            (const uint32_t *)(void *)k->pair_words, w->kernel_w * k->pair_next, w->stride_w * k->pair_next,
            (const uint32_t *)(void *)k->single_words, w->kernel_w * k->single_next, w->stride_w * k->single_next,
            w->out_w,
        };
        k->row(&row);
    }
}

/* An output row of a 3x3 kernel. */
static void row_3x3(const work *k, int32_t top, int8_t *out)
{
    const embarq_window *w = &k->p->window;
    const int32_t step = w->stride_w * k->pair_next, channels = w->out_c, count = k->count;
    const int whole = top >= 0 && top + 3 <= w->in_h;
    const int8_t *upper = whole ? image_row(k, top) : 0, *middle = whole ? image_row(k, top + 1) : 0, *lower = whole ? image_row(k, top + 2) : 0;
    const int32_t *stream = k->p->stream;
    const uint32_t *columns = (const uint32_t *)(void *)k->pair_words, *end = (const uint32_t *)(void *)(k->pair_words + w->out_w * step);
    uint32_t *first = (uint32_t *)(void *)(k->pair_words + k->first * k->pair_next);
    for (int32_t c = 0; c < channels; c += GROUP, stream += 4 + 18 + 12) {
        if (whole) {
            embarq_columns3_s8(upper + c, middle + c, lower + c, first, count, channels);
        } else {
            unpack(k, top, c);
        }
        k->row3x3(columns, stream, out + c, channels, step, end);
    }
}

/* Copy row y, which output row y may lie on. */
static void keep_row(work *k, int32_t y)
{
    const int32_t line = k->p->window.in_w * k->p->window.in_c;
    embarq_copy(k->kept + y % k->p->kept_rows * line, k->image + y * line, (size_t)line);
    k->saved = y + 1;
}

static void image_loop(work *k, int8_t *out)
{
    const embarq_depthwise_s8_dsp_params *p = k->p;
    const embarq_window *w = &p->window;
    k->saved = 0;
    for (int32_t y = 0; y < w->out_h; y++, out += w->out_w * w->out_c) {
        if (p->kept_rows) {
            keep_row(k, y);
        }
        const int32_t top = y * w->stride_h - w->pad_top;
        if (is_3x3(w)) {
            row_3x3(k, top, out);
        } else {
            row_any(k, top, out);
        }
        if (p->low > INT8_MIN || p->high < INT8_MAX) {
            embarq_limit_s8(out, w->out_w * w->out_c, p->low, p->high);
        }
    }
}

/* Lay out the scratch and fill it with the zero point: columns in the padding stay so. */
static void lay_out(work *k, uint8_t *scratch)
{
    const embarq_window *w = &k->p->window;
    const int32_t width = (w->out_w - 1) * w->stride_w + w->kernel_w;
    const int32_t bytes = k->pairs * PAIR_BYTES + k->single * SINGLE_BYTES;
    const uint32_t half = (uint16_t)k->p->input_zero_point;
    uint32_t *words = (uint32_t *)(void *)scratch;

    for (int32_t i = 0; i < width * bytes / 4; i++) {
        words[i] = half | half << 16;
    }
    k->kept = (int8_t *)scratch + width * bytes;
    k->first = w->pad_left;
    k->count = embarq_min(w->in_w, width - k->first);
    k->pair_words = scratch;
    if (is_3x3(w)) { /* pairs and single of a column side by side */
        k->pair_next = k->single_next = bytes;
        k->single_words = scratch + PAIR_BYTES;
        return;
    }
    k->pair_next = k->pairs * PAIR_BYTES;
    k->single_next = k->single * SINGLE_BYTES;
    k->single_words = scratch + width * k->pair_next;
}

static void run(const embarq_depthwise_s8_dsp_params *p, const embarq_memory *memory, embarq_row3x3 *row3x3, void (*row)(embarq_row *))
{
    const embarq_window *w = &p->window;
    work k = {0};
    k.p = p;
    k.row3x3 = row3x3;
    k.row = row;
    k.image = embarq_at(memory, p->input);
    k.padding = (uint8_t)p->input_zero_point * UINT32_C(0x01010101);
    k.pairs = w->kernel_h / 2;
    k.single = w->kernel_h % 2;
    lay_out(&k, embarq_at(memory, p->scratch));

    int8_t *out = embarq_at(memory, p->output); /* [out_h][out_w][channels] */
    for (int32_t n = 0; n < w->batch; n++, k.image += w->in_h * w->in_w * w->in_c, out += w->out_h * w->out_w * w->out_c) {
        image_loop(&k, out);
    }
}

void embarq_depthwise_s8_dsp(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_row3x3_s8, embarq_row_s8);
}

void embarq_depthwise_s8_dsp_relu(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_row3x3_s8_relu, embarq_row_s8_relu);
}

#endif
