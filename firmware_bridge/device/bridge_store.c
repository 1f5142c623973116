/* Trained values in flash: two slots, the newest whole copy of this very model counts. PROTOCOL.md states every byte.
 *
 * A slot is erased, filled and read back before its header is written, and the header's own CRC is its last word: whenever
 * the power goes, one slot at least is as it was. The message buffer, idle meanwhile, holds what is on its way.
 */
#include "bridge_internal.h"

#define STORE_MAGIC 0x57424d45u /* "EMBW" */
#define STORE_LAYOUT 1u
#define NO_SLOT 2u

typedef struct { /* little endian, as every core here is */
    uint32_t magic, layout, sequence;
    uint32_t size; /* bytes of content */
    uint32_t crc;  /* CRC-32 of the content */
    uint8_t id[32]; /* the plan the model was made from */
    uint32_t unused[2]; /* 0 */
    uint32_t check; /* CRC-32 of the 60 bytes before */
} store_header;

typedef struct {
    uint8_t *bytes;
    uint32_t size; /* a multiple of the flash's unit */
} staging;

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Behind the message's header, which the answer still needs. */
static staging stage(const embarq_bridge *bridge)
{
    const embarq_bridge_config *config = &bridge->config;
    staging area = {config->buffer + SMP_HEADER_SIZE, (config->buffer_size - SMP_HEADER_SIZE) & ~(config->learning->flash->unit - 1u)};
    return area;
}

/* Bytes of the header and the erased ones behind it: the content begins where programming can begin. */
static uint32_t header_bytes(const embarq_flash *flash)
{
    return flash->unit > sizeof(store_header) ? flash->unit : (uint32_t)sizeof(store_header);
}

uint32_t embarq_store_size(const embarq_training *training)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < training->variable_count; i++) {
        total += training->variables[i].size_bytes;
    }
    return total;
}

int embarq_store_room(const embarq_bridge *bridge)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    uint32_t wanted = header_bytes(flash) + ((embarq_store_size(embarq_training_of(bridge)) + flash->unit - 1u) & ~(flash->unit - 1u));
    return (uint32_t)(flash->end[0] - flash->begin[0]) >= wanted && (uint32_t)(flash->end[1] - flash->begin[1]) >= wanted &&
           stage(bridge).size >= sizeof(store_header);
}

/* `size` bytes from `at` on of all variables, one after the other: out of them, or into them. */
static void move(const embarq_bridge *bridge, uint32_t at, uint8_t *bytes, uint32_t size, int into)
{
    const embarq_training *training = embarq_training_of(bridge);
    for (uint32_t i = 0; i < training->variable_count && size > 0; i++) {
        const embarq_variable *v = &training->variables[i];
        if (at >= v->size_bytes) {
            at -= v->size_bytes;
            continue;
        }
        uint8_t *value = (uint8_t *)embarq_at(bridge->config.memory, v->ref) + at;
        uint32_t count = least(v->size_bytes - at, size);
        memcpy(into ? value : bytes, into ? bytes : value, count);
        bytes += count;
        size -= count;
        at = 0;
    }
}

/* CRC-32 of the content of a slot; with `into` it is put into the variables on the way. 0 when the flash cannot be read. */
static int read_content(const embarq_bridge *bridge, uint32_t slot, int into, uint32_t *crc)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    uint32_t size = embarq_store_size(embarq_training_of(bridge));
    const uint8_t *from = flash->begin[slot] + header_bytes(flash);
    staging area = stage(bridge);
    *crc = 0;
    for (uint32_t at = 0; at < size;) {
        uint32_t count = least(size - at, area.size);
        if (flash->read(from + at, area.bytes, count) != 0) {
            return 0;
        }
        *crc = embarq_crc32(*crc, area.bytes, count);
        if (into) {
            move(bridge, at, area.bytes, count, 1);
        }
        at += count;
    }
    return 1;
}

static int same_id(const uint8_t *a, const uint8_t *b)
{
    uint32_t difference = 0;
    for (uint32_t i = 0; i < 32; i++) {
        difference |= (uint32_t)(a[i] ^ b[i]);
    }
    return difference == 0;
}

/* 1 when the slot holds a whole copy of this model's values. */
static int whole(const embarq_bridge *bridge, uint32_t slot, store_header *header)
{
    const embarq_training *training = embarq_training_of(bridge);
    const embarq_flash *flash = bridge->config.learning->flash;
    uint32_t crc;
    if (flash->read(flash->begin[slot], (uint8_t *)header, sizeof *header) != 0) {
        return 0;
    }
    return header->magic == STORE_MAGIC && header->layout == STORE_LAYOUT && header->size == embarq_store_size(training) &&
           header->check == embarq_crc32(0, (const uint8_t *)header, sizeof *header - sizeof header->check) &&
           same_id(header->id, training->step->id) && read_content(bridge, slot, 0, &crc) && crc == header->crc;
}

void embarq_store_find(embarq_bridge *bridge)
{
    embarq_training_state *state = bridge->config.learning->state;
    store_header header;
    state->slot = NO_SLOT;
    state->sequence = 0;
    if (!embarq_store_room(bridge)) {
        return;
    }
    for (uint32_t slot = 0; slot < 2; slot++) { /* newer by the signed difference: the number may wrap */
        if (whole(bridge, slot, &header) && (state->slot == NO_SLOT || (int32_t)(header.sequence - state->sequence) > 0)) {
            state->slot = (uint8_t)slot;
            state->sequence = header.sequence;
        }
    }
}

int embarq_store_load(embarq_bridge *bridge)
{
    uint32_t crc;
    embarq_store_find(bridge);
    return bridge->config.learning->state->slot != NO_SLOT && read_content(bridge, bridge->config.learning->state->slot, 1, &crc);
}

/* The content of a slot that has been erased; 0 when the flash refuses. `crc` is that of the variables. */
static int write_content(const embarq_bridge *bridge, uint32_t slot, uint32_t *crc)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    uint32_t size = embarq_store_size(embarq_training_of(bridge));
    const uint8_t *to = flash->begin[slot] + header_bytes(flash);
    staging area = stage(bridge);
    *crc = 0;
    for (uint32_t at = 0; at < size; at += area.size) {
        uint32_t count = least(size - at, area.size);
        memset(area.bytes, 0xff, area.size);
        move(bridge, at, area.bytes, count, 0);
        *crc = embarq_crc32(*crc, area.bytes, count);
        if (flash->program(to + at, area.bytes, (count + flash->unit - 1u) & ~(flash->unit - 1u)) != 0) {
            return 0;
        }
    }
    return 1;
}

static int write_header(const embarq_bridge *bridge, uint32_t slot, uint32_t sequence, uint32_t crc)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    staging area = stage(bridge);
    store_header header = {STORE_MAGIC, STORE_LAYOUT, sequence, embarq_store_size(embarq_training_of(bridge)), crc, {0}, {0, 0}, 0};
    memcpy(header.id, embarq_training_of(bridge)->step->id, sizeof header.id);
    header.check = embarq_crc32(0, (const uint8_t *)&header, sizeof header - sizeof header.check);
    memset(area.bytes, 0xff, header_bytes(flash));
    memcpy(area.bytes, &header, sizeof header);
    return flash->program(flash->begin[slot], area.bytes, header_bytes(flash)) == 0;
}

int embarq_store_commit(embarq_bridge *bridge)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    embarq_training_state *state = bridge->config.learning->state;
    uint32_t slot = state->slot == 0 ? 1 : 0, sequence = state->sequence + 1u, crc, found;
    store_header header;
    if (!embarq_store_room(bridge)) {
        return EMBARQ_TRAIN_NO_FLASH;
    }
    sequence += sequence == 0; /* 0 means none */
    if (flash->erase(flash->begin[slot], (uint32_t)(flash->end[slot] - flash->begin[slot])) != 0 || !write_content(bridge, slot, &crc) ||
        !read_content(bridge, slot, 0, &found) || found != crc || !write_header(bridge, slot, sequence, crc) ||
        !whole(bridge, slot, &header) || header.sequence != sequence) {
        return EMBARQ_TRAIN_FLASH_FAILED;
    }
    state->slot = (uint8_t)slot;
    state->sequence = sequence;
    return 0;
}

/* The newest copy last: a power cut in between must not bring an older one back. */
int embarq_store_erase(embarq_bridge *bridge)
{
    const embarq_flash *flash = bridge->config.learning->flash;
    uint32_t first = bridge->config.learning->state->slot == 0 ? 1 : 0;
    if (!embarq_store_room(bridge)) {
        return 0; /* nothing was ever written */
    }
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t slot = first ^ k;
        if (flash->erase(flash->begin[slot], (uint32_t)(flash->end[slot] - flash->begin[slot])) != 0) {
            return EMBARQ_TRAIN_FLASH_FAILED;
        }
    }
    return 0;
}
