/* Inputs in, a run, outputs out.
 *
 * Every request may be sent again when its answer was lost: a write that was taken already is answered with the place to
 * go on from, a run that has been done is answered with its ticks, the last page of steps is kept.
 */
#include "bridge_internal.h"

enum { PHASE_FILLING, PHASE_READY, PHASE_STEPPING, PHASE_DONE };

#define PAGE_OVERHEAD 48u /* bytes of a page of steps beside its numbers, with room to spare */
#define STEP_BYTES 10u    /* most that one step's two numbers take */
#define DATA_OVERHEAD 40u /* the same for an answer that carries tensor bytes */

volatile uint32_t embarq_current_step = EMBARQ_NO_STEP;

static int get_bytes(const smp_request *request, const char *key, embarq_cbor_item *item)
{
    return embarq_cbor_find(request->cbor, request->size, key, item) && item->type == EMBARQ_CBOR_BYTES;
}

static void begin_inputs(embarq_model_state *state)
{
    state->phase = PHASE_FILLING;
    state->input = 0;
    state->offset = 0;
}

void embarq_run_init(embarq_bridge *bridge)
{
    begin_inputs(&bridge->model);
    if (bridge->config.model->abi == EMBARQ_ABI && bridge->config.model->input_count == 0) {
        bridge->model.phase = PHASE_READY;
    }
}

/* Bytes written in order, input after input. What comes twice or too early is not written: the answer says where to go on. */
int embarq_write_input(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    embarq_model_state *state = &bridge->model;
    uint32_t i, offset;
    embarq_cbor_item data;
    if (!embarq_get_uint(request, "i", &i) || !embarq_get_uint(request, "off", &offset) || !get_bytes(request, "data", &data)) {
        return REFUSE(EMBARQ_BAD_REQUEST);
    }
    if (i >= model->input_count) {
        return REFUSE(EMBARQ_NO_SUCH_TENSOR);
    }
    const embarq_tensor *t = &model->inputs[i];
    if (offset > t->size_bytes || data.value > t->size_bytes - offset) {
        return REFUSE(EMBARQ_BAD_OFFSET);
    }
    if (i == 0 && offset == 0) {
        begin_inputs(state);
    }
    if (state->phase == PHASE_FILLING && i == state->input && offset == state->offset) {
        memcpy((uint8_t *)embarq_at(bridge->config.memory, t->ref) + offset, data.data, data.value);
        state->offset += data.value;
        if (state->offset == t->size_bytes) {
            state->offset = 0;
            state->phase = ++state->input == model->input_count ? PHASE_READY : PHASE_FILLING;
        }
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
    embarq_cbor_key_uint(out, "i", state->input);
    embarq_cbor_key_uint(out, "off", state->offset);
    return 0;
}

int embarq_inputs_ready(const embarq_bridge *bridge)
{
    return bridge->model.phase == PHASE_READY;
}

void embarq_run_steps(embarq_bridge *bridge, uint32_t end)
{
    const embarq_bridge_config *config = &bridge->config;
    embarq_model_state *state = &bridge->model;
    uint32_t before = config->ticks(config->context);
    for (uint32_t i = state->next_step; i < end; i++) {
        const embarq_step *step = &config->model->steps[i];
        embarq_current_step = i;
        step->run(step->params, config->memory);
        uint32_t now = config->ticks(config->context);
        state->ticks += (uint32_t)(now - before);
        before = now;
    }
    embarq_current_step = EMBARQ_NO_STEP;
    state->next_step = (uint16_t)end;
    state->phase = end == config->model->step_count ? PHASE_DONE : PHASE_STEPPING;
}

static void begin_run(embarq_model_state *state)
{
    state->ticks = 0;
    state->next_step = 0;
    state->page_count = 0;
}

static uint32_t total_bytes(const embarq_tensor *tensors, uint32_t count)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += tensors[i].size_bytes;
    }
    return total;
}

/* All inputs from one message, one after the other. */
static int take_inputs(embarq_bridge *bridge, const embarq_cbor_item *data)
{
    const embarq_model *model = bridge->config.model;
    const uint8_t *from = data->data;
    if (data->value != total_bytes(model->inputs, model->input_count)) {
        return REFUSE(EMBARQ_BAD_LENGTH);
    }
    for (uint32_t i = 0; i < model->input_count; i++) {
        memcpy(embarq_at(bridge->config.memory, model->inputs[i].ref), from, model->inputs[i].size_bytes);
        from += model->inputs[i].size_bytes;
    }
    bridge->model.phase = PHASE_READY;
    return 0;
}

/* All outputs, one after the other, as the value of "out". */
static void put_outputs(embarq_bridge *bridge, uint32_t size, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    embarq_cbor_text(out, "out");
    embarq_cbor_head(out, EMBARQ_CBOR_BYTES, size);
    for (uint32_t i = 0; i < model->output_count && !out->full; i++) {
        embarq_cbor_raw(out, embarq_at(bridge->config.memory, model->outputs[i].ref), model->outputs[i].size_bytes);
    }
}

int embarq_run_whole(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    embarq_model_state *state = &bridge->model;
    embarq_cbor_item data;
    int whole = embarq_cbor_find(request->cbor, request->size, "data", &data);
    if (whole) {
        int code = data.type == EMBARQ_CBOR_BYTES ? take_inputs(bridge, &data) : REFUSE(EMBARQ_BAD_REQUEST);
        if (code != 0) {
            return code;
        }
    }
    if (state->phase == PHASE_READY) {
        begin_run(state);
        embarq_run_steps(bridge, model->step_count);
    } else if (state->phase != PHASE_DONE) {
        return REFUSE(EMBARQ_NOT_READY);
    }
    uint32_t size = total_bytes(model->outputs, model->output_count);
    whole = whole && size <= out->size - DATA_OVERHEAD;
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, whole ? 2 : 1);
    embarq_cbor_text(out, "ticks");
    embarq_cbor_uint64(out, state->ticks);
    if (whole) {
        put_outputs(bridge, size, out);
    }
    return 0;
}

/* Compute up to `count` further steps, noting the ticks of each and the CRC of what it wrote. */
static void run_page(embarq_bridge *bridge, uint32_t count, int with_crc)
{
    const embarq_model *model = bridge->config.model;
    embarq_model_state *state = &bridge->model;
    state->page_first = state->next_step;
    state->page_count = 0;
    for (uint32_t k = 0; k < count; k++) {
        const embarq_step *step = &model->steps[state->next_step];
        uint64_t before = state->ticks;
        embarq_run_steps(bridge, state->next_step + 1u);
        state->page_ticks[k] = (uint32_t)(state->ticks - before);
        state->page_crc[k] = with_crc ? embarq_crc32(0, embarq_at(bridge->config.memory, step->output), step->output_bytes) : 0;
        state->page_count++;
    }
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int embarq_run_page(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    embarq_model_state *state = &bridge->model;
    embarq_cbor_item crc;
    uint32_t first, count;
    int with_crc = embarq_cbor_find(request->cbor, request->size, "crc", &crc);
    if (!embarq_get_uint(request, "first", &first) || !embarq_get_uint(request, "n", &count) || count == 0 ||
        (with_crc && (crc.type != EMBARQ_CBOR_SIMPLE || crc.value < 20 || crc.value > 21))) {
        return REFUSE(EMBARQ_BAD_REQUEST);
    }
    int again = state->phase >= PHASE_STEPPING && state->page_count > 0 && first == state->page_first;
    if (!again) {
        if (first == 0 ? state->phase != PHASE_READY : state->phase < PHASE_STEPPING) {
            return REFUSE(EMBARQ_NOT_READY);
        }
        if (first == 0) {
            begin_run(state);
        }
        if (first != state->next_step || first >= model->step_count) {
            return REFUSE(EMBARQ_BAD_STEP);
        }
        count = least(least(count, EMBARQ_BRIDGE_PAGE), least(model->step_count - first, (out->size - PAGE_OVERHEAD) / STEP_BYTES));
        run_page(bridge, count, with_crc && crc.value == 21);
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 4);
    embarq_cbor_key_uint(out, "first", state->page_first);
    embarq_cbor_key_uint(out, "steps", model->step_count);
    embarq_cbor_numbers(out, "ticks", state->page_ticks, state->page_count);
    embarq_cbor_numbers(out, "crc", state->page_crc, state->page_count);
    return 0;
}

int embarq_put_piece(embarq_bridge *bridge, const smp_request *request, embarq_ref ref, uint32_t size, embarq_cbor_out *out)
{
    uint32_t offset, length;
    if (!embarq_get_uint(request, "off", &offset) || !embarq_get_uint(request, "len", &length)) {
        return REFUSE(EMBARQ_BAD_REQUEST);
    }
    if (offset > size || length > size - offset) {
        return REFUSE(EMBARQ_BAD_OFFSET);
    }
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
    embarq_cbor_key_uint(out, "off", offset);
    embarq_cbor_text(out, "data");
    embarq_cbor_string(out, EMBARQ_CBOR_BYTES, (const uint8_t *)embarq_at(bridge->config.memory, ref) + offset,
                       least(length, out->size - DATA_OVERHEAD));
    return 0;
}

int embarq_read_output(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    uint32_t i;
    if (!embarq_get_uint(request, "i", &i) || i >= model->output_count) {
        return REFUSE(EMBARQ_NO_SUCH_TENSOR);
    }
    if (bridge->model.phase != PHASE_DONE) {
        return REFUSE(EMBARQ_NO_RESULT);
    }
    return embarq_put_piece(bridge, request, model->outputs[i].ref, model->outputs[i].size_bytes, out);
}

/* What one step wrote: to be had only right after it, later steps may use its place. */
int embarq_read_layer(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    const embarq_model *model = bridge->config.model;
    uint32_t i;
    if (!embarq_get_uint(request, "step", &i) || i >= model->step_count) {
        return REFUSE(EMBARQ_NO_SUCH_TENSOR);
    }
    if (bridge->model.phase < PHASE_STEPPING || i + 1u != bridge->model.next_step) {
        return REFUSE(EMBARQ_BAD_STEP);
    }
    return embarq_put_piece(bridge, request, model->steps[i].output, model->steps[i].output_bytes, out);
}
