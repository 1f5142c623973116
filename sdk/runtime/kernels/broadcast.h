/* Walking two broadcast operands: calls BODY once per output value, with the operands' element offsets `at_a`, `at_b`. */
#ifndef EMBARQ_BROADCAST_H
#define EMBARQ_BROADCAST_H

#include "embarq_kernels.h"

#define EMBARQ_BROADCAST(s, at_a, at_b, BODY) \
    for (int32_t i_ = 0; i_ < (s)->shape[0]; i_++) { \
        for (int32_t j_ = 0; j_ < (s)->shape[1]; j_++) { \
            for (int32_t k_ = 0; k_ < (s)->shape[2]; k_++) { \
                int32_t at_a = i_ * (s)->stride_a[0] + j_ * (s)->stride_a[1] + k_ * (s)->stride_a[2]; \
                int32_t at_b = i_ * (s)->stride_b[0] + j_ * (s)->stride_b[1] + k_ * (s)->stride_b[2]; \
                for (int32_t l_ = 0; l_ < (s)->shape[3]; l_++, at_a += (s)->stride_a[3], at_b += (s)->stride_b[3]) { \
                    BODY \
                } \
            } \
        } \
    }

#endif
