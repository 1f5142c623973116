/* float32 kernels over rows and windows: softmax, normalisation, reductions, pools. */
#include "embarq_kernels.h"
#include "real.h"
#include "reduce.h"
#include "window.h"

static float largest(const float *in, int32_t depth)
{
    float most = in[0];
    for (int32_t i = 1; i < depth; i++) {
        most = in[i] > most ? in[i] : most;
    }
    return most;
}

void embarq_softmax_f32(const void *params, const embarq_memory *memory)
{
    const embarq_softmax_f32_params *p = params;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        const float most = largest(in, p->depth);
        float total = 0.0f;
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = __builtin_expf((in[i] - most) * p->beta);
            total += out[i];
        }
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] /= total;
        }
    }
}

void embarq_log_softmax_f32(const void *params, const embarq_memory *memory)
{
    const embarq_softmax_f32_params *p = params;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        const float most = largest(in, p->depth);
        float total = 0.0f;
        for (int32_t i = 0; i < p->depth; i++) {
            total += __builtin_expf((in[i] - most) * p->beta);
        }
        const float log_total = __builtin_logf(total);
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (in[i] - most) * p->beta - log_total;
        }
    }
}

void embarq_layer_norm_f32(const void *params, const embarq_memory *memory)
{
    const embarq_layer_norm_f32_params *p = params;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        float total = 0.0f, squares = 0.0f;
        for (int32_t i = 0; i < p->depth; i++) {
            total += in[i];
        }
        const float mean = total / (float)p->depth;
        for (int32_t i = 0; i < p->depth; i++) {
            squares += (in[i] - mean) * (in[i] - mean);
        }
        const float deviation = __builtin_sqrtf(squares / (float)p->depth + p->eps);
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (in[i] - mean) / deviation * p->gamma[i] + p->beta[i];
        }
    }
}

void embarq_batch_norm_f32(const void *params, const embarq_memory *memory)
{
    const embarq_batch_norm_f32_params *p = params;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (in[i] - p->mean[i]) * p->scale[i] + p->shift[i];
        }
    }
}

void embarq_sum_f32(const void *params, const embarq_memory *memory)
{
    const embarq_reduce_f32_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        float total = 0.0f;
        EMBARQ_REDUCE(r, n, at, { total += in[at]; })
        out[n] = total / p->divisor;
    }
}

void embarq_reduce_max_f32(const void *params, const embarq_memory *memory)
{
    const embarq_reduce_f32_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        float best = in[embarq_reduce_start(r, n)];
        EMBARQ_REDUCE(r, n, at, { best = in[at] > best ? in[at] : best; })
        out[n] = best;
    }
}

void embarq_argmax_f32(const void *params, const embarq_memory *memory)
{
    const embarq_argmax_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const float *in = embarq_at(memory, p->input);
    int32_t *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        float best = in[embarq_reduce_start(r, n)];
        int32_t place = 0, here = 0;
        EMBARQ_REDUCE(r, n, at, {
            if (in[at] > best) {
                best = in[at];
                place = here;
            }
            here++;
        })
        out[n * p->out_words] = place;
        if (p->out_words == 2) { /* int64, and places are never negative */
            out[2 * n + 1] = 0;
        }
    }
}

static float window_value(const embarq_pool_f32_params *p, const float *image, int32_t y, int32_t x, int32_t c, int mean)
{
    const embarq_window *w = &p->window;
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, 1, w->in_h), columns = embarq_taps_inside(left, w->kernel_w, 1, w->in_w);
    float total = 0.0f, most = -__builtin_inff();
    for (int32_t i = rows.first; i < rows.end; i++) {
        for (int32_t j = columns.first; j < columns.end; j++) {
            const float value = image[((top + i) * w->in_w + left + j) * w->in_c + c];
            total += value;
            most = value > most ? value : most;
        }
    }
    const int32_t inside = (rows.end - rows.first) * (columns.end - columns.first);
    return mean ? total / (float)(p->count_pad ? w->kernel_h * w->kernel_w : inside) : most;
}

static void pool(const embarq_pool_f32_params *p, const embarq_memory *memory, int mean)
{
    const embarq_window *w = &p->window;
    const float *image = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++) {
                for (int32_t c = 0; c < w->in_c; c++) {
                    *out++ = embarq_limit_f32(window_value(p, image, y, x, c, mean), p->low, p->high);
                }
            }
        }
    }
}

void embarq_avg_pool_f32(const void *params, const embarq_memory *memory)
{
    pool(params, memory, 1);
}

void embarq_max_pool_f32(const void *params, const embarq_memory *memory)
{
    pool(params, memory, 0);
}
