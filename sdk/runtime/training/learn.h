/* How weights take a step against their gradient: w -= rate * v, v = momentum * v + g where there is a velocity, else v = g. */
#ifndef EMBARQ_LEARN_H
#define EMBARQ_LEARN_H

#include "embarq_kernels.h"
#include "real_fma.h"

typedef struct {
    float rate, momentum;
    float *f32;           /* float weights, or NULL */
    int8_t *s8;           /* int8 weights, or NULL */
    const float *scales;  /* of int8 weights, by channel */
    float *velocity;      /* or NULL */
    uint32_t seed;        /* of the rounding of int8 weights */
} embarq_learner;

/* Everything a step needs; raises the counter of int8 weights. */
embarq_learner embarq_learner_of(const embarq_memory *memory, const embarq_learn *learn);

/* Weights number [index, index + count) of one output channel take a step against gradient[0..count). */
void embarq_take_step(const embarq_learner *learner, int32_t index, int32_t count, int32_t channel, const float *gradient);

/* The same for weights [index, index + count) of as many output channels, one each, from `channel` on. */
void embarq_take_steps(const embarq_learner *learner, int32_t index, int32_t count, int32_t channel, const float *gradient);

/* float weights without a velocity: the common case, worth its own path. */
static inline int embarq_is_plain(const embarq_learner *learner)
{
    return learner->f32 && !learner->velocity;
}

/* Four such weights from number `index`. */
static inline void embarq_take_four(const embarq_learner *learner, int32_t index, const float *gradient)
{
    float *w = learner->f32 + index;
    const float back = -learner->rate, a = w[0], b = w[1], c = w[2], d = w[3];
    w[0] = embarq_fma(back, gradient[0], a);
    w[1] = embarq_fma(back, gradient[1], b);
    w[2] = embarq_fma(back, gradient[2], c);
    w[3] = embarq_fma(back, gradient[3], d);
}

#endif
