#include "learner.h"

enum {
    AT_X = 0,                                          /* int8 [1, 40], scale 1/32 */
    AT_LABEL = 48,                                     /* int32 [1] */
    AT_REAL = 64,                                      /* float32 [1, 40] */
    AT_SCORES = AT_REAL + 4 * LEARNER_INPUTS,          /* float32 [1, 3] */
    AT_LOSS = AT_SCORES + 16,                          /* float32 [1] */
    AT_GRADIENT = AT_LOSS + 16,                        /* float32 [1, 3] */
    AT_HYPER = AT_GRADIENT + 16,                       /* float32 [4] */
    AT_WEIGHT = AT_HYPER + 16,                         /* float32 [3, 40] */
    AT_BIAS = AT_WEIGHT + 4 * LEARNER_INPUTS * LEARNER_CLASSES, /* float32 [3] */
    AT_COUNT = AT_BIAS + 16,                           /* float32 [1]: updates so far, begins as zeros */
};

static void *place(const embarq_memory *memory, uint32_t offset)
{
    return embarq_at(memory, EMBARQ_REF(0, offset));
}

/* exp(x): 2^k times a polynomial of what is left, good to the last digits of a float. No libm on these boards. */
static float exponential(float x)
{
    float k = x * 1.44269504f;
    int32_t whole = (int32_t)(k < 0 ? k - 0.5f : k + 0.5f);
    float r = x - (float)whole * 0.69314575f - (float)whole * 1.42860677e-6f;
    union {
        uint32_t bits;
        float value;
    } power = {(uint32_t)(whole + 127) << 23};
    if (whole < -126) {
        return 0.0f;
    }
    return power.value * (1.0f + r * (1.0f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f))))));
}

/* log(x) of x >= 1 by three rounds of Newton on exp. */
static float logarithm(float x)
{
    float y = x < 2.0f ? x - 1.0f : 1.0f;
    for (int i = 0; i < 6; i++) {
        y += x / exponential(y) - 1.0f;
    }
    return y;
}

static void run_real(const void *params, const embarq_memory *memory)
{
    const int8_t *x = place(memory, AT_X);
    float *y = place(memory, AT_REAL);
    (void)params;
    for (int i = 0; i < LEARNER_INPUTS; i++) {
        y[i] = (float)x[i] * 0.03125f;
    }
}

static void run_scores(const void *params, const embarq_memory *memory)
{
    const float *x = place(memory, AT_REAL), *weight = place(memory, AT_WEIGHT), *bias = place(memory, AT_BIAS);
    float *y = place(memory, AT_SCORES);
    (void)params;
    for (int c = 0; c < LEARNER_CLASSES; c++) {
        y[c] = bias[c];
        for (int i = 0; i < LEARNER_INPUTS; i++) {
            y[c] += weight[c * LEARNER_INPUTS + i] * x[i];
        }
    }
}

static void run_loss(const void *params, const embarq_memory *memory)
{
    const float *y = place(memory, AT_SCORES);
    float *gradient = place(memory, AT_GRADIENT), *loss = place(memory, AT_LOSS);
    int32_t label = *(const int32_t *)place(memory, AT_LABEL);
    float top = y[0], sum = 0.0f;
    (void)params;
    for (int c = 1; c < LEARNER_CLASSES; c++) {
        top = y[c] > top ? y[c] : top;
    }
    for (int c = 0; c < LEARNER_CLASSES; c++) {
        gradient[c] = exponential(y[c] - top);
        sum += gradient[c];
    }
    *loss = logarithm(sum) + top - y[label];
    for (int c = 0; c < LEARNER_CLASSES; c++) {
        gradient[c] = gradient[c] / sum - (c == label ? 1.0f : 0.0f);
    }
}

static void run_update(const void *params, const embarq_memory *memory)
{
    const float *x = place(memory, AT_REAL), *gradient = place(memory, AT_GRADIENT), *hyper = place(memory, AT_HYPER);
    float *weight = place(memory, AT_WEIGHT), *bias = place(memory, AT_BIAS), *count = place(memory, AT_COUNT);
    (void)params;
    for (int c = 0; c < LEARNER_CLASSES; c++) {
        float step = hyper[0] * gradient[c];
        bias[c] -= step;
        for (int i = 0; i < LEARNER_INPUTS; i++) {
            weight[c * LEARNER_INPUTS + i] -= step * x[i];
        }
    }
    *count += 1.0f;
}

static const float first_bias[LEARNER_CLASSES] = {0.25f, -0.5f, 0.125f};
static const float first_weight[LEARNER_CLASSES * LEARNER_INPUTS] = {0.5f, -0.25f, 0.125f};

static const embarq_tensor inputs[] = {
    {"x", EMBARQ_REF(0, AT_X), LEARNER_INPUTS, EMBARQ_INT8, 2, {1, LEARNER_INPUTS}, 0.03125f, 0},
    {"label", EMBARQ_REF(0, AT_LABEL), 4, EMBARQ_INT32, 1, {1}, 0.0f, 0},
};
static const embarq_tensor outputs[] = {
    {"loss", EMBARQ_REF(0, AT_LOSS), 4, EMBARQ_FLOAT32, 1, {1}, 0.0f, 0},
    {"scores", EMBARQ_REF(0, AT_SCORES), 4 * LEARNER_CLASSES, EMBARQ_FLOAT32, 2, {1, LEARNER_CLASSES}, 0.0f, 0},
};
static const uint8_t id[32] = {9, 8, 7, 6};
static const embarq_step steps[] = {
    {run_real, 0, EMBARQ_REF(0, AT_REAL), 4 * LEARNER_INPUTS},
    {run_scores, 0, EMBARQ_REF(0, AT_SCORES), 4 * LEARNER_CLASSES},
    {run_loss, 0, EMBARQ_REF(0, AT_LOSS), 4},
    {run_update, 0, EMBARQ_REF(0, AT_WEIGHT), 4 * LEARNER_CLASSES * LEARNER_INPUTS},
};
static const embarq_model step = {EMBARQ_ABI, "learner", id, {LEARNER_ARENA, 0, 0, 0}, inputs, outputs, steps, 2, 2, 4};
const embarq_model learner_inference = {EMBARQ_ABI, "learner", id, {LEARNER_ARENA, 0, 0, 0}, inputs, outputs + 1, steps, 1, 1, 2};
static const embarq_variable variables[] = {
    {"dense.weight", EMBARQ_REF(0, AT_WEIGHT), 4 * LEARNER_CLASSES * LEARNER_INPUTS, first_weight},
    {"dense.bias", EMBARQ_REF(0, AT_BIAS), 4 * LEARNER_CLASSES, first_bias},
    {"count", EMBARQ_REF(0, AT_COUNT), 4, 0},
};
const embarq_training learner_training = {&step, &learner_inference, variables, 3, EMBARQ_REF(0, AT_HYPER)};
