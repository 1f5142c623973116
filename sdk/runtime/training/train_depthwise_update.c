/* A step of a depthwise convolution's weights, channel by channel, on a copy of the input with its padding. */
#include "learn.h"
#include "plane.h"
#include "real_fma.h"

typedef struct {
    const embarq_train_depthwise_update_params *p;
    const float *x, *dy;
    float *plane;
} work;

/* Gradient of tap (i, j) of the channel whose plane is laid out. */
static float tap_gradient(const work *k, int32_t n, int32_t c, int32_t i, int32_t j)
{
    const embarq_window *w = &k->p->window;
    const float *dy = k->dy + n * w->out_h * w->out_w * w->in_c + c;
    float total = 0.0f;
    for (int32_t y = 0; y < w->out_h; y++) {
        const float *x = k->plane + (y * w->stride_h + i * w->dilation_h) * k->p->plane_w + j * w->dilation_w;
        for (int32_t column = 0; column < w->out_w; column++, dy += w->in_c, x += w->stride_w) {
            total = embarq_fma(*dy, *x, total);
        }
    }
    return total;
}

/* 3x3 without dilation: nine sums in registers. */
static void gradient_3x3(const work *k, int32_t n, int32_t c, float *g)
{
    const embarq_window *w = &k->p->window;
    const float *dy = k->dy + n * w->out_h * w->out_w * w->in_c + c;
    const int32_t step = w->in_c, stride = w->stride_w, width = k->p->plane_w;
    float a = g[0], b = g[1], d = g[2], e = g[3], f = g[4], h = g[5], i = g[6], l = g[7], m = g[8];
    for (int32_t y = 0; y < w->out_h; y++) {
        const float *top = k->plane + y * w->stride_h * width, *middle = top + width, *bottom = middle + width;
        for (int32_t x = 0; x < w->out_w; x++, dy += step, top += stride, middle += stride, bottom += stride) {
            const float v = *dy;
            a = embarq_fma(v, top[0], a);
            b = embarq_fma(v, top[1], b);
            d = embarq_fma(v, top[2], d);
            e = embarq_fma(v, middle[0], e);
            f = embarq_fma(v, middle[1], f);
            h = embarq_fma(v, middle[2], h);
            i = embarq_fma(v, bottom[0], i);
            l = embarq_fma(v, bottom[1], l);
            m = embarq_fma(v, bottom[2], m);
        }
    }
    const float sums[EMBARQ_TAPS] = {a, b, d, e, f, h, i, l, m};
    for (int32_t tap = 0; tap < EMBARQ_TAPS; tap++) {
        g[tap] = sums[tap];
    }
}

static void lay_out(const work *k, int32_t n, int32_t c)
{
    const embarq_window *w = &k->p->window;
    embarq_plane_put(k->plane, k->p->plane_w, w->pad_top, w->pad_left, k->x + n * w->in_h * w->in_w * w->in_c + c, w->in_h, w->in_w, w->in_c);
}

void embarq_train_depthwise_update(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_update_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const work k = {p, embarq_at(memory, p->input), embarq_at(memory, p->dy), embarq_at(memory, p->scratch)};
    const int fast = w->kernel_h == 3 && w->kernel_w == 3 && w->dilation_h == 1 && w->dilation_w == 1;

    embarq_plane_clear(k.plane, p->plane_h * p->plane_w);
    for (int32_t c = 0; c < w->in_c; c++) {
        float g[EMBARQ_TAPS] = {0};
        for (int32_t n = 0; fast && n < w->batch; n++) {
            lay_out(&k, n, c);
            gradient_3x3(&k, n, c, g);
        }
        for (int32_t tap = 0; tap < w->kernel_h * w->kernel_w; tap++) {
            float total = fast ? g[tap] : 0.0f;
            for (int32_t n = 0; !fast && n < w->batch; n++) {
                if (tap == 0 || w->batch > 1) {
                    lay_out(&k, n, c);
                }
                total += tap_gradient(&k, n, c, tap / w->kernel_w, tap % w->kernel_w);
            }
            embarq_take_step(&learner, tap * w->in_c + c, 1, c, &total);
        }
    }
}
