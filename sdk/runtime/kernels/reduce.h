/* Many values to one: the places of a reduction's input values. */
#ifndef EMBARQ_REDUCE_H
#define EMBARQ_REDUCE_H

#include "embarq_kernels.h"

/* Calls BODY for each value that goes into output value `index`, with its element offset `at`. */
#define EMBARQ_REDUCE(r, index, at, BODY) \
    { \
        const int32_t start_ = embarq_reduce_start(r, index); \
        for (int32_t i_ = 0; i_ < (r)->inner[0]; i_++) { \
            for (int32_t j_ = 0; j_ < (r)->inner[1]; j_++) { \
                for (int32_t k_ = 0; k_ < (r)->inner[2]; k_++) { \
                    const int32_t at = start_ + i_ * (r)->inner_stride[0] + j_ * (r)->inner_stride[1] + k_ * (r)->inner_stride[2]; \
                    BODY \
                } \
            } \
        } \
    }

static inline int32_t embarq_reduce_count(const embarq_reduction *r)
{
    return r->outer[0] * r->outer[1] * r->outer[2];
}

static inline int32_t embarq_reduce_start(const embarq_reduction *r, int32_t index)
{
    const int32_t k = index % r->outer[2], j = index / r->outer[2] % r->outer[1], i = index / r->outer[2] / r->outer[1];
    return i * r->outer_stride[0] + j * r->outer_stride[1] + k * r->outer_stride[2];
}

#endif
