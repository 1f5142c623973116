/* Gradient of the fused head's input, pixel by pixel: the map's gradient is made from the mask where it is needed. */
#include "bits.h"
#include "tile.h"

/* columns[o][p] = the gradient of channel first + o at nine pixels, times its weights' scale */
static void spread(const embarq_train_head_grad_params *p, const float *dy, const uint8_t *mask, const float *scales, int32_t bit, int32_t pixels,
                   int32_t count, float *columns)
{
    const float share = 1.0f / (float)p->pixels;
    for (int32_t o = 0; o < count; o++, bit += p->pixels, columns += EMBARQ_TILE) {
        const float g = dy[o] * share * (scales ? scales[o] : 1.0f);
        const uint32_t open = embarq_bits(mask, bit, pixels);
        for (int32_t i = 0; i < EMBARQ_TILE; i++) {
            columns[i] = open >> i & 1u ? g : 0.0f;
        }
    }
}

void embarq_train_head_grad(const void *params, const embarq_memory *memory)
{
    const embarq_train_head_grad_params *p = params;
    const embarq_view view = embarq_view_of(memory, &p->weights);
    const float *dy = embarq_at(memory, p->input); /* [batch][out_c] */
    const float *add = p->has_add ? embarq_at(memory, p->add) : 0;
    const uint8_t *mask = embarq_at(memory, p->mask);
    float *columns = embarq_at(memory, p->scratch), *out = embarq_at(memory, p->output); /* [batch][pixels][in_c] */

    embarq_start_with(out, add, p->batch * p->pixels * p->in_c);
    for (int32_t n = 0; n < p->batch; n++, dy += p->out_c) {
        for (int32_t first = 0; first < p->pixels; first += EMBARQ_TILE) {
            const int32_t pixels = p->pixels - first < EMBARQ_TILE ? p->pixels - first : EMBARQ_TILE;
            for (int32_t o = 0; o < p->out_c; o += p->chunk) {
                const int32_t count = p->out_c - o < p->chunk ? p->out_c - o : p->chunk;
                const embarq_product product = {columns, count, view, o * p->in_c, p->in_c, 1, 0, out, out, p->in_c, p->in_c, p->in_c, pixels, 0};
                spread(p, dy + o, mask, view.scales ? view.scales + o : 0, (n * p->out_c + o) * p->pixels + first, pixels, count, columns);
                embarq_multiply(&product);
            }
            out += pixels * p->in_c;
        }
    }
}
