/* SMP: the 8-byte header, the choice of handler, errors, and the OS group. */
#include "bridge_internal.h"

enum { OP_WRITE_BIT = 2, OP_ANSWER_BIT = 1 };
enum { OS_ECHO = 0, OS_RESET = 5, OS_PARAMETERS = 6 };

int embarq_get_uint(const smp_request *request, const char *key, uint32_t *value)
{
    embarq_cbor_item item;
    if (!embarq_cbor_find(request->cbor, request->size, key, &item) || item.type != EMBARQ_CBOR_UINT) {
        return 0;
    }
    *value = item.value;
    return 1;
}

static int os_group(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out)
{
    embarq_cbor_item text;
    switch (request->command) {
    case OS_ECHO: /* Zephyr answers a read of it as well */
        if (!embarq_cbor_find(request->cbor, request->size, "d", &text) || text.type != EMBARQ_CBOR_TEXT) {
            return SMP_EINVAL;
        }
        embarq_cbor_head(out, EMBARQ_CBOR_MAP, 1);
        embarq_cbor_text(out, "r");
        embarq_cbor_string(out, EMBARQ_CBOR_TEXT, text.data, text.value);
        return 0;
    case OS_RESET:
        if (!request->write) {
            return SMP_ENOTSUP;
        }
        bridge->reset_wanted = 1;
        embarq_cbor_head(out, EMBARQ_CBOR_MAP, 0);
        return 0;
    case OS_PARAMETERS:
        if (request->write) {
            return SMP_ENOTSUP;
        }
        embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
        embarq_cbor_key_uint(out, "buf_size", bridge->config.buffer_size);
        embarq_cbor_key_uint(out, "buf_count", 1);
        return 0;
    default:
        return SMP_ENOTSUP;
    }
}

/* The groups this firmware speaks. Image management (1) belongs here once there are slots to write. */
static smp_handler find_group(const embarq_bridge *bridge, uint32_t group)
{
    switch (group) {
    case SMP_GROUP_OS:
        return os_group;
    case SMP_GROUP_MODEL:
        return embarq_model_group;
    case SMP_GROUP_TRAINING: /* through the pointer alone, so that models which do not learn are linked without it */
        return bridge->config.learning == NULL ? NULL : bridge->config.learning->group;
    default:
        return NULL;
    }
}

static int carry_out(embarq_bridge *bridge, uint32_t packet_size, embarq_cbor_out *out)
{
    const uint8_t *header = bridge->config.buffer;
    smp_handler handler = find_group(bridge, (uint32_t)header[4] << 8 | header[5]);
    smp_request request = {
        (header[0] & OP_WRITE_BIT) != 0, header[7], (uint32_t)header[2] << 8 | header[3], header + SMP_HEADER_SIZE};
    if (((header[0] >> 3) & 3u) > 1) {
        return SMP_TOO_NEW;
    }
    if (packet_size > bridge->config.buffer_size) {
        return SMP_EMSGSIZE;
    }
    if (request.size != packet_size - SMP_HEADER_SIZE) {
        return SMP_ECORRUPT;
    }
    if (!embarq_cbor_is_map(request.cbor, request.size)) {
        return SMP_EINVAL;
    }
    return handler == NULL ? SMP_ENOTSUP : handler(bridge, &request, out);
}

/* {"rc": code}, or in version 2 for a group's own code {"err": {"group": g, "rc": code}}. */
static void write_error(embarq_cbor_out *out, int code, const uint8_t *header)
{
    uint32_t version = (header[0] >> 3) & 3u;
    out->used = 0;
    out->full = 0;
    embarq_cbor_head(out, EMBARQ_CBOR_MAP, 1);
    if (code < GROUP_ERROR) {
        embarq_cbor_key_uint(out, "rc", (uint32_t)code);
    } else if (version == 0) { /* version 1 knows SMP's own codes only */
        embarq_cbor_key_uint(out, "rc", SMP_EINVAL);
    } else {
        embarq_cbor_text(out, "err");
        embarq_cbor_head(out, EMBARQ_CBOR_MAP, 2);
        embarq_cbor_key_uint(out, "group", (uint32_t)header[4] << 8 | header[5]);
        embarq_cbor_key_uint(out, "rc", (uint32_t)(code - GROUP_ERROR));
    }
}

uint32_t embarq_smp_answer(embarq_bridge *bridge, uint32_t packet_size)
{
    uint8_t *header = bridge->config.buffer;
    embarq_cbor_out out = {header + SMP_HEADER_SIZE, bridge->config.buffer_size - SMP_HEADER_SIZE, 0, 0};
    if ((header[0] & 7u) != 0 && (header[0] & 7u) != OP_WRITE_BIT) {
        return 0; /* an answer, our own perhaps: answering it would never end */
    }
    int code = carry_out(bridge, packet_size, &out);
    if (code == 0 && out.full) {
        code = SMP_EMSGSIZE;
    }
    if (code != 0) {
        write_error(&out, code, header);
    }
    header[0] = (uint8_t)((header[0] & 0x1fu) | OP_ANSWER_BIT);
    header[1] = 0;
    header[2] = (uint8_t)(out.used >> 8);
    header[3] = (uint8_t)out.used;
    return SMP_HEADER_SIZE + out.used;
}

void embarq_bridge_init(embarq_bridge *bridge, const embarq_bridge_config *config)
{
    memset(bridge, 0, sizeof *bridge);
    bridge->config = *config;
    embarq_run_init(bridge);
    if (config->learning != NULL) {
        config->learning->begin(bridge);
    }
}
