/* Loss and gradient of logits against labels, both means over the rows. */
#include "embarq_kernels.h"

void embarq_softmax_cross_entropy(const void *params, const embarq_memory *memory)
{
    const embarq_softmax_cross_entropy_params *p = params;
    const float *logits = embarq_at(memory, p->logits); /* [rows][classes] */
    const int32_t *label = embarq_at(memory, p->label); /* [rows] */
    float *gradient = embarq_at(memory, p->gradient);   /* [rows][classes] */
    float *loss = embarq_at(memory, p->loss), sum = 0.0f;
    const float share = 1.0f / (float)p->rows;

    for (int32_t row = 0; row < p->rows; row++, logits += p->classes, gradient += p->classes, label++) {
        float most = logits[0], total = 0.0f;
        for (int32_t i = 1; i < p->classes; i++) {
            most = logits[i] > most ? logits[i] : most;
        }
        for (int32_t i = 0; i < p->classes; i++) {
            gradient[i] = __builtin_expf(logits[i] - most);
            total += gradient[i];
        }
        sum += __builtin_logf(total);
        if (*label >= 0 && *label < p->classes) { /* p - 1 from the others: near 1 it would lose its digits */
            float others = 0.0f;
            for (int32_t i = 0; i < p->classes; i++) {
                others += i == *label ? 0.0f : gradient[i];
            }
            sum -= logits[*label] - most;
            gradient[*label] = -others;
        }
        for (int32_t i = 0; i < p->classes; i++) {
            gradient[i] = gradient[i] / total * share;
        }
    }
    *loss = sum * share;
}
