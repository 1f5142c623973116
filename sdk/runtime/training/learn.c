/* learn.h */
#include "learn.h"

embarq_learner embarq_learner_of(const embarq_memory *memory, const embarq_learn *learn)
{
    const float *hyper = embarq_at(memory, learn->hyper);
    void *weights = embarq_at(memory, learn->weights);
    embarq_learner learner = {hyper[0], hyper[1], learn->scales ? 0 : weights, learn->scales ? weights : 0, learn->scales, 0, 0};
    if (learn->has_velocity) {
        learner.velocity = embarq_at(memory, learn->velocity);
    }
    if (learn->scales) {
        int32_t *counter = embarq_at(memory, learn->counter);
        learner.seed = (uint32_t)*counter * UINT32_C(0x9e3779b9);
        *counter = (int32_t)((uint32_t)*counter + 1u);
    }
    return learner;
}

/* In [0, 1): the finaliser of a 32-bit hash (lowbias32). */
static float noise(uint32_t h)
{
    h ^= h >> 16;
    h *= UINT32_C(0x7feb352d);
    h ^= h >> 15;
    h *= UINT32_C(0x846ca68b);
    h ^= h >> 16;
    return (float)(h >> 8) * (1.0f / 16777216.0f);
}

/* floor(q - step + noise), the step in units of the weight: whole numbers apart, so that no digit of a small step is lost */
static int8_t moved(int8_t q, float step, float dither)
{
    const float units = embarq_within(step - dither, -256.0f, 256.0f);
    int32_t down = (int32_t)units; /* towards 0 */
    down += (float)down < units;
    const int32_t next = q - down;
    return (int8_t)(next < -127 ? -127 : next > 127 ? 127 : next);
}

void embarq_take_step(const embarq_learner *learner, int32_t index, int32_t count, int32_t channel, const float *gradient)
{
    const float rate = learner->rate, momentum = learner->momentum;
    float *velocity = learner->velocity ? learner->velocity + index : 0;
    int32_t i = 0;
    for (; embarq_is_plain(learner) && i + 4 <= count; i += 4) {
        embarq_take_four(learner, index + i, gradient + i);
    }
    for (; i < count; i++) {
        float change = gradient[i];
        if (velocity) {
            change = embarq_fma(momentum, velocity[i], change);
            velocity[i] = change;
        }
        if (learner->f32) {
            learner->f32[index + i] = embarq_fma(-rate, change, learner->f32[index + i]);
        } else {
            int8_t *q = learner->s8 + index + i;
            *q = moved(*q, rate * change / learner->scales[channel], noise(learner->seed + (uint32_t)(index + i)));
        }
    }
}

void embarq_take_steps(const embarq_learner *learner, int32_t index, int32_t count, int32_t channel, const float *gradient)
{
    if (learner->f32) {
        embarq_take_step(learner, index, count, channel, gradient);
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        embarq_take_step(learner, index + i, 1, channel + i, gradient + i);
    }
}
