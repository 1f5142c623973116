/* a * b + c: in one instruction, rounded once, where the core has it. Training is judged by a tolerance, so it may differ from core to core. */
#ifndef EMBARQ_REAL_FMA_H
#define EMBARQ_REAL_FMA_H

static inline float embarq_fma(float a, float b, float c)
{
#if defined(__thumb2__) && defined(__ARM_FP) && defined(__ARM_FEATURE_FMA)
    __asm__("vfma.f32 %0, %1, %2" : "+t"(c) : "t"(a), "t"(b)); /* the builtin becomes a call where errno counts */
    return c;
#else
    return a * b + c;
#endif
}

static inline float embarq_within(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

#endif
