/* 1x1 convolution, activation and mean over the pixels in one: of the map there are never more than nine pixels of eight channels. */
#include "bits.h"
#include "tile.h"

enum { CHANNELS = 8 };

typedef struct {
    const embarq_train_head_params *p;
    embarq_view weights, adapter;
    const float *bias;
    float *columns;
    float *out;    /* [out_c] of this sample */
    uint8_t *mask;
    int32_t bit;   /* number of this sample's first bit */
    int32_t first, count; /* pixels of this tile */
} work;

/* Add a channel's pixels to its mean, and note which are open. */
static void add_channel(const work *k, const float *values, int32_t channel, float share)
{
    const uint32_t high = (uint32_t)embarq_high_bits(0.0f, k->p->high);
    uint32_t bits = 0;
    float total = 0.0f;
    for (int32_t p = 0; p < k->count; p++, values += CHANNELS) {
        const union {
            float value;
            uint32_t bits;
        } word = {*values};
        total += word.value;
        bits |= embarq_is_open(word.bits, high) << p;
    }
    embarq_set_bits(k->mask, k->bit + channel * k->p->pixels + k->first, k->count, bits);
    k->out[channel] += total * share;
}

/* All channels of nine pixels, eight by eight. */
static void tile(const work *k)
{
    const embarq_train_head_params *p = k->p;
    const int32_t high = embarq_high_bits(0.0f, p->high);
    const float share = 1.0f / (float)p->pixels;
    float values[EMBARQ_TILE * CHANNELS];
    for (int32_t n = 0; n < p->out_c; n += CHANNELS) {
        const int32_t count = p->out_c - n < CHANNELS ? p->out_c - n : CHANNELS;
        const embarq_product first = {
            k->columns, p->in_c, k->weights, n * p->in_c, 1, p->in_c, k->weights.scales ? k->weights.scales + n : 0, k->bias + n, values, 0, CHANNELS, count,
            k->count, p->rank ? 0 : high,
        };
        embarq_multiply(&first);
        if (p->rank) {
            const embarq_product second = {
                k->columns + p->in_c * EMBARQ_TILE, p->rank, k->adapter, n * p->rank, 1, p->rank, k->adapter.scales ? k->adapter.scales + n : 0, values,
                values, CHANNELS, CHANNELS, count, k->count, high,
            };
            embarq_multiply(&second);
        }
        for (int32_t i = 0; i < count; i++) {
            add_channel(k, values + i, n + i, share);
        }
    }
}

static void gather(const work *k, const float *image, int32_t depth, float *columns)
{
    const float *pixels[EMBARQ_TILE] = {0};
    for (int32_t p = 0; p < k->count; p++) {
        pixels[p] = image + (k->first + p) * depth;
    }
    embarq_columns(pixels, depth, 0, columns);
}

void embarq_train_head(const void *params, const embarq_memory *memory)
{
    const embarq_train_head_params *p = params;
    const float *x = embarq_at(memory, p->input), *z = embarq_source_at(memory, &p->z);
    work k = {
        p, embarq_view_of(memory, &p->weights), embarq_view_of(memory, &p->p), embarq_source_at(memory, &p->bias), embarq_at(memory, p->scratch),
        embarq_at(memory, p->output), embarq_at(memory, p->mask), 0, 0, 0,
    };
    for (int32_t i = 0; i < p->batch * p->out_c; i++) {
        k.out[i] = 0.0f;
    }
    for (int32_t i = 0; i < (p->batch * p->out_c * p->pixels + 7) / 8; i++) {
        k.mask[i] = 0;
    }
    for (int32_t n = 0; n < p->batch; n++) {
        for (k.first = 0; k.first < p->pixels; k.first += EMBARQ_TILE) {
            k.count = p->pixels - k.first < EMBARQ_TILE ? p->pixels - k.first : EMBARQ_TILE;
            gather(&k, x + n * p->pixels * p->in_c, p->in_c, k.columns);
            if (p->rank) {
                gather(&k, z + n * p->pixels * p->rank, p->rank, k.columns + p->in_c * EMBARQ_TILE);
            }
            tile(&k);
        }
        k.out += p->out_c;
        k.bit += p->out_c * p->pixels;
    }
}
