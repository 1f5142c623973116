/* Group 65: training. A step on one sample, the variables read and written, committed to flash and taken back.
 *
 * Every request may be sent again when its answer was lost: a step carries its number and is done once, a commit with
 * nothing new writes nothing, all others do the same twice.
 */
#include "bridge_internal.h"

enum { TRAIN_INFO, TRAIN_START, TRAIN_STEP, TRAIN_READ, TRAIN_WRITE, TRAIN_COMMIT, TRAIN_FORGET };
enum { FROM_PRESENT, FROM_COMMITTED, FROM_FIRMWARE };

#define HYPER_BYTES 16u

static int get_bytes(const smp_request *request, const char *key, embarq_cbor_item *item)
{
    return embarq_cbor_find(request->cbor, request->size, key, item) && item->type == EMBARQ_CBOR_BYTES;
}

static int abi_fits(const embarq_training *training)
{
    return training->step->abi == EMBARQ_ABI && training->inference->abi == EMBARQ_ABI;
}

static uint32_t class_count(const embarq_training *training)
{
    return training->step->outputs[1].size_bytes / (uint32_t)sizeof(float);
}

static void *at(const embarq_bridge *bridge, embarq_ref ref)
{
    return embarq_at(bridge->config.memory, ref);
}

/* The values the firmware came with. */
static void load_initial(embarq_bridge *bridge)
{
    const embarq_training *training = embarq_training_of(bridge);
    for (uint32_t i = 0; i < training->variable_count; i++) {
        const embarq_variable *v = &training->variables[i];
        if (v->initial == NULL) {
            memset(at(bridge, v->ref), 0, v->size_bytes);
        } else {
            memcpy(at(bridge, v->ref), v->initial, v->size_bytes);
        }
    }
}

void embarq_training_begin(embarq_bridge *bridge)
{
    embarq_training_state *state = bridge->config.learning->state;
    memset(state, 0, sizeof *state);
    if (!abi_fits(embarq_training_of(bridge))) {
        return;
    }
    if (!embarq_store_load(bridge)) {
        load_initial(bridge);
    }
}

static int info(embarq_bridge *bridge, embarq_cbor_out *out)
{
    static const char keys[][8] = {"proto", "steps", "forward", "vars", "size", "classes", "flash", "seq", "step", "changed"};
    const embarq_training *training = embarq_training_of(bridge);
    const embarq_training_state *state = bridge->config.learning->state;
    const uint32_t values[] = {EMBARQ_TRAINING_PROTOCOL,
                               training->step->step_count,
                               training->inference->step_count,
                               training->variable_count,
                               embarq_store_size(training),
                               class_count(training),
                               (uint32_t)embarq_store_room(bridge),
                               state->sequence,
                               state->step,
                               state->changed};
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 11);
    for (uint32_t i = 0; i < 10; i++) {
        embarq_cbor_key_uint(out, keys[i], values[i]);
    }
    embarq_cbor_text(out, "hyper");
    embarq_cbor_string(out, EMBARQ_CBOR_BYTES, at(bridge, training->hyper), state->started ? HYPER_BYTES : 0);
    return 0;
}

static int answer_state(const embarq_training_state *state, embarq_cbor_out *out)
{
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
    embarq_cbor_key_uint(out, "seq", state->sequence);
    embarq_cbor_key_uint(out, "changed", state->changed);
    return 0;
}

static int start(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    embarq_training_state *state = bridge->config.learning->state;
    uint8_t kept[HYPER_BYTES];
    embarq_cbor_item hyper;
    uint32_t base;
    if (!embarq_get_uint(request, "base", &base) || base > FROM_FIRMWARE || !get_bytes(request, "hyper", &hyper) ||
        hyper.value != HYPER_BYTES) {
        return REFUSE(EMBARQ_TRAIN_BAD_REQUEST);
    }
    memcpy(kept, hyper.data, HYPER_BYTES); /* loading uses the message buffer */
    if (base == FROM_COMMITTED) {
        embarq_training_begin(bridge);
    } else if (base == FROM_FIRMWARE) {
        load_initial(bridge);
        state->changed = state->sequence != 0;
    }
    memcpy(at(bridge, embarq_training_of(bridge)->hyper), kept, HYPER_BYTES);
    state->step = 0;
    state->started = 1;
    embarq_run_init(bridge);
    return answer_state(state, out);
}

/* Number of the largest score; floats compare like integers once the negative ones are turned round. */
static uint32_t largest(const uint8_t *scores, uint32_t count)
{
    uint32_t found = 0;
    int32_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, scores + 4u * i, sizeof bits);
        bits ^= bits < 0 ? 0x7fffffff : 0;
        if (i == 0 || bits > best) {
            best = bits;
            found = i;
        }
    }
    return found;
}

/* The training step runs in place of the model. */
static uint64_t run(embarq_bridge *bridge, const embarq_model *step)
{
    const embarq_model *inference = bridge->config.model;
    bridge->config.model = step;
    bridge->model.next_step = 0;
    bridge->model.ticks = 0;
    embarq_run_steps(bridge, step->step_count);
    bridge->config.model = inference;
    return bridge->model.ticks;
}

static void train(embarq_bridge *bridge, uint32_t label)
{
    const embarq_model *step = embarq_training_of(bridge)->step;
    embarq_training_state *state = bridge->config.learning->state;
    memcpy(at(bridge, step->inputs[step->input_count - 1].ref), &label, sizeof label);
    state->changed = 1; /* before the first update: a crash in between must not look like nothing */
    state->ticks = run(bridge, step);
    memcpy(&state->loss, at(bridge, step->outputs[0].ref), sizeof state->loss);
    state->predicted = largest(at(bridge, step->outputs[1].ref), class_count(embarq_training_of(bridge)));
    state->step++;
    embarq_run_init(bridge);
}

/* All inputs but the label, which is the last, from one message; 0 when it is not as long as they are. */
static int take_data(embarq_bridge *bridge, const embarq_cbor_item *data)
{
    const embarq_model *step = embarq_training_of(bridge)->step;
    uint32_t used = 0;
    for (uint32_t i = 0; i + 1u < step->input_count; i++) {
        const embarq_tensor *t = &step->inputs[i];
        if (t->size_bytes > data->value - used) {
            return 0;
        }
        memcpy(at(bridge, t->ref), data->data + used, t->size_bytes);
        used += t->size_bytes;
    }
    return used == data->value;
}

/* The sample is `data` of this very message, or what the model group has written. */
static int take_sample(embarq_bridge *bridge, const smp_request *request)
{
    embarq_cbor_item data;
    if (!embarq_cbor_find(request->cbor, request->size, "data", &data)) {
        return embarq_inputs_ready(bridge) ? 0 : REFUSE(EMBARQ_TRAIN_NOT_READY);
    }
    if (data.type != EMBARQ_CBOR_BYTES) {
        return REFUSE(EMBARQ_TRAIN_BAD_REQUEST);
    }
    embarq_run_init(bridge);
    return take_data(bridge, &data) ? 0 : REFUSE(EMBARQ_TRAIN_BAD_LENGTH);
}

static int step(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    embarq_training_state *state = bridge->config.learning->state;
    uint32_t number, label;
    float loss;
    if (!embarq_get_uint(request, "step", &number) || !embarq_get_uint(request, "label", &label)) {
        return REFUSE(EMBARQ_TRAIN_BAD_REQUEST);
    }
    if (!state->started) {
        return REFUSE(EMBARQ_TRAIN_NOT_STARTED);
    }
    if (number == 0 || number != state->step) { /* else it has been done, and its answer was lost */
        if (number != state->step + 1u) {
            return REFUSE(EMBARQ_TRAIN_BAD_STEP);
        }
        if (label >= class_count(embarq_training_of(bridge))) {
            return REFUSE(EMBARQ_TRAIN_BAD_LABEL);
        }
        int code = take_sample(bridge, request);
        if (code != 0) {
            return code;
        }
        train(bridge, label);
    }
    memcpy(&loss, &state->loss, sizeof loss);
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 4);
    embarq_cbor_key_uint(out, "step", state->step);
    embarq_cbor_text(out, "loss");
    embarq_cbor_float(out, loss);
    embarq_cbor_key_uint(out, "pred", state->predicted);
    embarq_cbor_text(out, "ticks");
    embarq_cbor_uint64(out, state->ticks);
    return 0;
}

/* Name, size and CRC-32 of a variable, or bytes of it where `off` and `len` are given. */
static int read_variable(embarq_bridge *bridge, const embarq_variable *v, const smp_request *request, embarq_cbor_out *out)
{
    uint32_t offset;
    if (embarq_get_uint(request, "off", &offset)) { /* its refusals have the same numbers in both groups */
        return embarq_put_piece(bridge, request, v->ref, v->size_bytes, out);
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 3);
    embarq_cbor_text(out, "name");
    embarq_cbor_text(out, v->name);
    embarq_cbor_key_uint(out, "size", v->size_bytes);
    embarq_cbor_key_uint(out, "crc", embarq_crc32(0, at(bridge, v->ref), v->size_bytes));
    return 0;
}

static int write_variable(embarq_bridge *bridge, const embarq_variable *v, const smp_request *request, embarq_cbor_out *out)
{
    uint32_t offset;
    embarq_cbor_item data;
    if (!embarq_get_uint(request, "off", &offset) || !get_bytes(request, "data", &data)) {
        return REFUSE(EMBARQ_TRAIN_BAD_REQUEST);
    }
    if (offset > v->size_bytes || data.value > v->size_bytes - offset) {
        return REFUSE(EMBARQ_TRAIN_BAD_OFFSET);
    }
    memcpy((uint8_t *)at(bridge, v->ref) + offset, data.data, data.value);
    bridge->config.learning->state->changed = 1;
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 1);
    embarq_cbor_key_uint(out, "off", offset + data.value);
    return 0;
}

static int variable(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_training *training = embarq_training_of(bridge);
    uint32_t i;
    if (!embarq_get_uint(request, "i", &i) || i >= training->variable_count) {
        return REFUSE(EMBARQ_TRAIN_NO_VARIABLE);
    }
    const embarq_variable *v = &training->variables[i];
    return request->write ? write_variable(bridge, v, request, out) : read_variable(bridge, v, request, out);
}

static int commit(embarq_bridge *bridge, embarq_cbor_out *out)
{
    embarq_training_state *state = bridge->config.learning->state;
    if (!embarq_store_room(bridge)) {
        return REFUSE(EMBARQ_TRAIN_NO_FLASH);
    }
    if (state->changed) {
        int code = embarq_store_commit(bridge);
        if (code != 0) {
            return REFUSE(code);
        }
        state->changed = 0;
    }
    return answer_state(state, out);
}

static int forget(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    embarq_cbor_item all;
    if (embarq_cbor_find(request->cbor, request->size, "all", &all)) {
        if (all.type != EMBARQ_CBOR_SIMPLE || all.value < 20 || all.value > 21) {
            return REFUSE(EMBARQ_TRAIN_BAD_REQUEST);
        }
        int code = all.value == 21 ? embarq_store_erase(bridge) : 0;
        if (code != 0) {
            return REFUSE(code);
        }
    }
    embarq_training_begin(bridge);
    embarq_run_init(bridge);
    return answer_state(bridge->config.learning->state, out);
}

int embarq_training_group(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    int is_write = request->command != TRAIN_INFO && request->command != TRAIN_READ;
    if (request->command > TRAIN_FORGET || is_write != request->write) {
        return SMP_ENOTSUP;
    }
    if (!abi_fits(embarq_training_of(bridge))) {
        return REFUSE(EMBARQ_TRAIN_BAD_ABI);
    }
    switch (request->command) {
    case TRAIN_INFO:
        return info(bridge, out);
    case TRAIN_START:
        return start(bridge, request, out);
    case TRAIN_STEP:
        return step(bridge, request, out);
    case TRAIN_COMMIT:
        return commit(bridge, out);
    case TRAIN_FORGET:
        return forget(bridge, request, out);
    default:
        return variable(bridge, request, out);
    }
}
