/* Group 64: what the model is, the choice of command, and what does not run the model. */
#include "bridge_internal.h"

enum { MODEL_INFO, MODEL_TENSOR, MODEL_INPUT, MODEL_RUN, MODEL_STEP, MODEL_OUTPUT, MODEL_MEMORY, MODEL_SELF_TEST, MODEL_LAYER, MODEL_FAULT };
enum { FAILED_ARENA = 1, FAILED_MEMORY = 2, FAILED_TICKS = 4, FAILED_CRC = 8 };

static int info(embarq_bridge *bridge, embarq_cbor_out *out)
{
    static const char keys[][8] = {"proto", "abi", "inputs", "outputs", "steps", "page", "hz"};
    const embarq_model *model = bridge->config.model;
    const uint32_t values[] = {EMBARQ_PROTOCOL,   model->abi,         model->input_count,     model->output_count,
                               model->step_count, EMBARQ_BRIDGE_PAGE, bridge->config.ticks_hz};
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 10);
    for (uint32_t i = 0; i < 7; i++) {
        embarq_cbor_key_uint(out, keys[i], values[i]);
    }
    embarq_cbor_text(out, "name");
    embarq_cbor_text(out, model->name);
    embarq_cbor_text(out, "id");
    embarq_cbor_string(out, EMBARQ_CBOR_BYTES, model->id, 32);
    embarq_cbor_numbers(out, "arena", model->arena_bytes, EMBARQ_REGIONS);
    return 0;
}

static int tensor(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    uint32_t side, i;
    if (!embarq_get_uint(request, "io", &side) || !embarq_get_uint(request, "i", &i) || side > 1) {
        return REFUSE(EMBARQ_BAD_REQUEST);
    }
    if (i >= (side == 0 ? model->input_count : model->output_count)) {
        return REFUSE(EMBARQ_NO_SUCH_TENSOR);
    }
    const embarq_tensor *t = (side == 0 ? model->inputs : model->outputs) + i;
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 6);
    embarq_cbor_text(out, "name");
    embarq_cbor_text(out, t->name);
    embarq_cbor_key_uint(out, "dtype", t->dtype);
    embarq_cbor_text(out, "shape");
    embarq_cbor_head(out, EMBARQ_CBOR_ARRAY, t->rank);
    for (uint32_t k = 0; k < t->rank; k++) {
        embarq_cbor_int(out, t->shape[k]);
    }
    embarq_cbor_text(out, "scale");
    embarq_cbor_float(out, t->scale);
    embarq_cbor_text(out, "zero");
    embarq_cbor_int(out, t->zero_point);
    embarq_cbor_key_uint(out, "size", t->size_bytes);
    return 0;
}

static int memory(embarq_bridge *bridge, embarq_cbor_out *out)
{
    const embarq_bridge_config *config = &bridge->config;
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
    embarq_cbor_key_uint(out, "stack", config->stack_size);
    embarq_cbor_key_uint(out, "used", config->stack_used == NULL ? 0 : config->stack_used(config->context));
    return 0;
}

/* What the last crash left behind, nothing when there was none; a write forgets it. */
static int fault(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    uint32_t *words = bridge->config.fault;
    if (request->write && words != NULL) {
        words[0] = 0;
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 1);
    embarq_cbor_numbers(out, "fault", words == NULL ? NULL : words + 1, words != NULL && words[0] == EMBARQ_FAULT_WORD ? EMBARQ_FAULT_WORDS : 0);
    return 0;
}

/* A pattern that depends on the address, written all over before any of it is read back. */
static int memory_holds(uint8_t *base, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        base[i] = (uint8_t)(i * 29u + (i >> 8));
    }
    for (uint32_t i = 0; i < size; i++) {
        if (((volatile uint8_t *)base)[i] != (uint8_t)(i * 29u + (i >> 8))) {
            return 0;
        }
    }
    return 1;
}

static uint32_t check_arena(const embarq_model *model, const embarq_memory *lent)
{
    uint32_t failed = 0;
    for (uint32_t r = 0; r < EMBARQ_REGIONS; r++) {
        if (model->arena_bytes[r] == 0) {
            continue;
        }
        if (lent->base[r] == NULL || ((uintptr_t)lent->base[r] & 15u) != 0) {
            failed |= FAILED_ARENA;
        } else if (!memory_holds(lent->base[r], model->arena_bytes[r])) {
            failed |= FAILED_MEMORY;
        }
    }
    return failed;
}

/* Writes over the whole arena: inputs and results are gone afterwards, and trained values are loaded anew. */
static int self_test(embarq_bridge *bridge, embarq_cbor_out *out)
{
    const embarq_bridge_config *config = &bridge->config;
    if (config->learning != NULL && config->learning->state->changed) {
        return REFUSE(EMBARQ_UNSAVED);
    }
    uint32_t start = config->ticks(config->context);
    uint32_t failed = check_arena(config->model, config->memory);
    embarq_run_init(bridge);
    failed |= embarq_crc32(0, (const uint8_t *)"123456789", 9) == 0xcbf43926u ? 0u : FAILED_CRC;
    failed |= config->ticks(config->context) != start ? 0u : FAILED_TICKS;
    if (config->learning != NULL) {
        config->learning->begin(bridge);
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 1);
    embarq_cbor_key_uint(out, "failed", failed);
    return 0;
}

/* Commands that write something, and so must come as an SMP write. */
static int is_write(uint32_t command)
{
    return command == MODEL_INPUT || command == MODEL_RUN || command == MODEL_STEP || command == MODEL_SELF_TEST;
}

int embarq_model_group(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    if (is_write(request->command) != request->write && request->command != MODEL_FAULT) {
        return SMP_ENOTSUP;
    }
    if (bridge->config.model->abi != EMBARQ_ABI) { /* nothing behind its first field can be trusted */
        return REFUSE(EMBARQ_BAD_ABI);
    }
    switch (request->command) {
    case MODEL_INFO:
        return info(bridge, out);
    case MODEL_TENSOR:
        return tensor(bridge, request, out);
    case MODEL_INPUT:
        return embarq_write_input(bridge, request, out);
    case MODEL_RUN:
        return embarq_run_whole(bridge, request, out);
    case MODEL_STEP:
        return embarq_run_page(bridge, request, out);
    case MODEL_OUTPUT:
        return embarq_read_output(bridge, request, out);
    case MODEL_MEMORY:
        return memory(bridge, out);
    case MODEL_SELF_TEST:
        return self_test(bridge, out);
    case MODEL_LAYER:
        return embarq_read_layer(bridge, request, out);
    case MODEL_FAULT:
        return fault(bridge, request, out);
    default:
        return SMP_ENOTSUP;
    }
}
