/* A small model written by hand: 19 steps that work on input 0 in place, and one that adds input 1 into a second output.
 *
 * It destroys its first input while it runs, as planned models do: whoever relies on inputs staying gets wrong answers.
 */
#include "model.h"

typedef struct {
    embarq_ref to;
    int32_t multiply, add;
} affine;

typedef struct {
    embarq_ref a, b, to;
} sum;

static const affine params[LOOPBACK_STEPS - 1] = {
    {EMBARQ_REF(0, 0), 3, 1},  {EMBARQ_REF(0, 0), 5, 2},   {EMBARQ_REF(0, 0), 7, 3},   {EMBARQ_REF(0, 0), 9, 4},   {EMBARQ_REF(0, 0), 11, 5},
    {EMBARQ_REF(0, 0), 13, 6}, {EMBARQ_REF(0, 0), 15, 7},  {EMBARQ_REF(0, 0), 17, 8},  {EMBARQ_REF(0, 0), 19, 9},  {EMBARQ_REF(0, 0), 21, 10},
    {EMBARQ_REF(0, 0), 23, 1}, {EMBARQ_REF(0, 0), 25, 12}, {EMBARQ_REF(0, 0), 27, 13}, {EMBARQ_REF(0, 0), 29, 14}, {EMBARQ_REF(0, 0), 31, 15},
    {EMBARQ_REF(0, 0), 33, 1}, {EMBARQ_REF(0, 0), 35, 17}, {EMBARQ_REF(0, 0), 37, 18}, {EMBARQ_REF(0, 0), 39, 19},
};
static const sum last = {EMBARQ_REF(0, 0), EMBARQ_REF(1, 16), EMBARQ_REF(1, 0)};

static void run_affine(const void *p, const embarq_memory *memory)
{
    const affine *step = p;
    uint8_t *x = embarq_at(memory, step->to);
    for (int i = 0; i < LOOPBACK_SIZE; i++) {
        x[i] = (uint8_t)(x[i] * step->multiply + step->add + (i & 3));
    }
    loopback_spend((uint32_t)step->multiply * 100u);
}

static void run_sum(const void *p, const embarq_memory *memory)
{
    const sum *step = p;
    const uint8_t *a = embarq_at(memory, step->a), *b = embarq_at(memory, step->b);
    uint8_t *y = embarq_at(memory, step->to);
    for (int i = 0; i < 8; i++) {
        y[i] = (uint8_t)(a[i] + b[i]);
    }
    loopback_spend(0xfffffff0u); /* nearly a whole turn of the counter: totals need more than 32 bits */
}

static const embarq_tensor inputs[] = {
    {"image", EMBARQ_REF(0, 0), LOOPBACK_SIZE, EMBARQ_INT8, 4, {1, 10, 10, 7}, 0.5f, -128},
    {"bias", EMBARQ_REF(1, 16), 8, EMBARQ_UINT8, 2, {1, 8}, 0.0f, 0},
};
static const embarq_tensor outputs[] = {
    {"map", EMBARQ_REF(0, 0), LOOPBACK_SIZE, EMBARQ_INT8, 2, {1, LOOPBACK_SIZE}, 0.25f, 3},
    {"scores", EMBARQ_REF(1, 0), 8, EMBARQ_UINT8, 2, {1, 8}, 0.00390625f, 0},
};
static const uint8_t id[32] = {1, 2, 3};
static const embarq_step steps[LOOPBACK_STEPS] = {
    {run_affine, &params[0], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[1], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[2], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[3], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[4], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[5], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[6], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[7], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[8], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[9], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[10], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[11], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[12], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[13], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[14], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[15], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[16], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[17], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_affine, &params[18], EMBARQ_REF(0, 0), LOOPBACK_SIZE},
    {run_sum, &last, EMBARQ_REF(1, 0), 8},
};
const embarq_model loopback_model = {EMBARQ_ABI, "loopback", id, {LOOPBACK_SIZE, LOOPBACK_SIDE, 0, 0}, inputs, outputs, steps, 2, 2, LOOPBACK_STEPS};
