/* float32, element by element: one tensor, or two with broadcasting. */
#include "broadcast.h"
#include "real.h"

/* ---- two tensors -------------------------------------------------------------------------------------------------- */
typedef float binary(float a, float b);

static void pairs(const embarq_arithmetic_f32_params *p, const embarq_memory *memory, binary *compute)
{
    const float *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    float *out = embarq_at(memory, p->output);
    EMBARQ_BROADCAST(&p->broadcast, at_a, at_b, { *out++ = embarq_limit_f32(compute(a[at_a], b[at_b]), p->low, p->high); })
}

#define BINARY(name, expression) \
    static float name##_of(float a, float b) \
    { \
        return expression; \
    } \
    void embarq_##name##_f32(const void *params, const embarq_memory *memory) \
    { \
        pairs(params, memory, name##_of); \
    }

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a * b)
BINARY(div, a / b)
BINARY(maximum, a > b ? a : b)
BINARY(minimum, a < b ? a : b)
BINARY(squared_difference, (a - b) * (a - b))
BINARY(prelu, a >= 0.0f ? a : a * b)

/* ---- one tensor --------------------------------------------------------------------------------------------------- */
typedef float unary(const embarq_unary_f32_params *p, float x);

static void each(const embarq_unary_f32_params *p, const embarq_memory *memory, unary *compute)
{
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i++) {
        out[i] = compute(p, in[i]);
    }
}

#define UNARY(name, expression) \
    static float name##_of(const embarq_unary_f32_params *p, float x) \
    { \
        (void)p; \
        return expression; \
    } \
    void embarq_##name##_f32(const void *params, const embarq_memory *memory) \
    { \
        each(params, memory, name##_of); \
    }

UNARY(clip, embarq_limit_f32(x, p->first, p->second))
UNARY(leaky_relu, x > 0.0f ? x : x * p->first)
UNARY(elu, x < 0.0f ? embarq_expm1(x) : x)
UNARY(hard_swish, x * embarq_limit_f32(x + 3.0f, 0.0f, 6.0f) / 6.0f)
UNARY(hard_sigmoid, embarq_limit_f32(x + 3.0f, 0.0f, 6.0f) / 6.0f)
UNARY(sigmoid, embarq_sigmoid(x))
UNARY(tanh, embarq_tanh(x))
UNARY(silu, x * embarq_sigmoid(x))
UNARY(gelu, 0.5f * x * (1.0f + embarq_erf(x * 0.70710678f)))
UNARY(gelu_tanh, 0.5f * x * (1.0f + embarq_tanh(0.79788456f * (x + 0.044715f * x * x * x))))
UNARY(exp, __builtin_expf(x))
UNARY(log, __builtin_logf(x))
UNARY(sqrt, __builtin_sqrtf(x))
UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))
UNARY(abs, x < 0.0f ? -x : x)
UNARY(neg, -x)
