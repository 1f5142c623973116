/* Gradient of a depthwise convolution's input, channel by channel: without stride the outputs' gradients under the kernel turned around, else spread
 * over a plane tap by tap. */
#include "plane.h"
#include "real_fma.h"

typedef struct {
    const embarq_train_depthwise_grad_params *p;
    embarq_view view;
    const float *dy, *add; /* add: NULL or as out */
    float *out, *plane;
} work;

static void turned(const work *k, int32_t c)
{
    const embarq_window *w = &k->p->window;
    const int32_t channels = w->in_c, last = w->kernel_h * w->kernel_w - 1;
    const embarq_correlation correlation = {
        k->plane, k->p->plane_w, w->in_h, w->in_w, w->kernel_h, w->kernel_w, 1, 1, w->dilation_h, w->dilation_w, -channels,
        k->out + c, k->add ? k->add + c : 0, channels, 0.0f, -__builtin_inff(), __builtin_inff(),
    };
    embarq_plane_put(k->plane, k->p->plane_w, (w->kernel_h - 1) * w->dilation_h - w->pad_top, (w->kernel_w - 1) * w->dilation_w - w->pad_left, k->dy + c,
                     w->out_h, w->out_w, channels);
    embarq_correlate(&correlation, &k->view, last * channels + c, k->view.scales ? k->view.scales[c] : 1.0f);
}

static void spread(const work *k, int32_t c)
{
    const embarq_window *w = &k->p->window;
    const float scale = k->view.scales ? k->view.scales[c] : 1.0f;
    embarq_plane_clear(k->plane, k->p->plane_h * k->p->plane_w);
    for (int32_t i = 0; i < w->kernel_h; i++) {
        for (int32_t j = 0; j < w->kernel_w; j++) {
            const float tap = embarq_view_at(&k->view, (i * w->kernel_w + j) * w->in_c + c) * scale;
            const float *dy = k->dy + c;
            for (int32_t y = 0; y < w->out_h; y++) {
                float *to = k->plane + (y * w->stride_h + i * w->dilation_h) * k->p->plane_w + j * w->dilation_w;
                for (int32_t x = 0; x < w->out_w; x++, dy += w->in_c, to += w->stride_w) {
                    *to = embarq_fma(*dy, tap, *to);
                }
            }
        }
    }
    for (int32_t y = 0, at = c; y < w->in_h; y++) {
        const float *from = k->plane + (y + w->pad_top) * k->p->plane_w + w->pad_left;
        for (int32_t x = 0; x < w->in_w; x++, at += w->in_c) {
            k->out[at] = k->add ? from[x] + k->add[at] : from[x];
        }
    }
}

void embarq_train_depthwise_grad(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_grad_params *p = params;
    const embarq_window *w = &p->window;
    const int32_t below = (w->kernel_h - 1) * w->dilation_h - w->pad_top, right = (w->kernel_w - 1) * w->dilation_w - w->pad_left;
    const int plain = w->stride_h == 1 && w->stride_w == 1 && below >= 0 && right >= 0;
    work k = {p, embarq_view_of(memory, &p->weights), embarq_at(memory, p->input), p->has_add ? embarq_at(memory, p->add) : 0,
              embarq_at(memory, p->output), embarq_at(memory, p->scratch)};

    embarq_plane_clear(k.plane, p->plane_h * p->plane_w);
    for (int32_t n = 0; n < w->batch; n++) {
        for (int32_t c = 0; c < w->in_c; c++) {
            if (plain) {
                turned(&k, c);
            } else {
                spread(&k, c);
            }
        }
        k.dy += w->out_h * w->out_w * w->in_c;
        k.out += w->in_h * w->in_w * w->in_c;
        k.add = k.add ? k.add + w->in_h * w->in_w * w->in_c : 0;
    }
}
