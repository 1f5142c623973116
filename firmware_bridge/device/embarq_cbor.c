#include "embarq_cbor.h"

#include <string.h>

/* Read the head at `*at`; 0 when it passes `size`, needs more than 32 bits or has no definite length. */
static int read_head(const uint8_t *bytes, uint32_t size, uint32_t *at, embarq_cbor_item *item)
{
    if (*at >= size) {
        return 0;
    }
    uint8_t first = bytes[(*at)++];
    uint8_t info = first & 31u;
    item->type = first >> 5;
    item->value = info;
    if (info >= 24) {
        if (info > 27) { /* 28-30 are reserved, 31 is an indefinite length */
            return 0;
        }
        uint32_t count = 1u << (info - 24);
        if (count > size - *at) {
            return 0;
        }
        uint32_t value = 0;
        for (uint32_t i = 0; i < count; i++) {
            /* Floats of 8 bytes have bits up there; a number or length that big fits nothing here. */
            if (item->type != EMBARQ_CBOR_SIMPLE && (value >> 24) != 0) {
                return 0;
            }
            value = (value << 8) | bytes[(*at)++];
        }
        item->value = value;
    }
    item->data = bytes + *at;
    return 1;
}

/* Step over one item and all it contains; no recursion, so that nested rubbish cannot eat the stack. */
static int skip_item(const uint8_t *bytes, uint32_t size, uint32_t *at)
{
    uint32_t pending = 1;
    while (pending > 0) {
        embarq_cbor_item item;
        if (!read_head(bytes, size, at, &item)) {
            return 0;
        }
        pending--;
        uint32_t left = size - *at;
        switch (item.type) {
        case EMBARQ_CBOR_BYTES:
        case EMBARQ_CBOR_TEXT:
            if (item.value > left) {
                return 0;
            }
            *at += item.value;
            break;
        case EMBARQ_CBOR_ARRAY:
        case EMBARQ_CBOR_MAP:
            if (item.value > left) { /* every element takes a byte at least: also keeps the sum below 2^32 */
                return 0;
            }
            pending += item.type == EMBARQ_CBOR_MAP ? 2 * item.value : item.value;
            break;
        case EMBARQ_CBOR_TAG:
            pending++;
            break;
        default:
            break;
        }
        if (pending > size - *at) {
            return 0;
        }
    }
    return 1;
}

int embarq_cbor_is_map(const uint8_t *bytes, uint32_t size)
{
    uint32_t at = 0;
    embarq_cbor_item map;
    if (size == 0) {
        return 1;
    }
    if (!read_head(bytes, size, &at, &map) || map.type != EMBARQ_CBOR_MAP) {
        return 0;
    }
    for (uint32_t i = 0; i < map.value; i++) {
        if (at >= size || bytes[at] >> 5 != EMBARQ_CBOR_TEXT || !skip_item(bytes, size, &at) || !skip_item(bytes, size, &at)) {
            return 0;
        }
    }
    return at == size;
}

int embarq_cbor_find(const uint8_t *bytes, uint32_t size, const char *key, embarq_cbor_item *item)
{
    uint32_t at = 0;
    embarq_cbor_item head;
    uint32_t length = (uint32_t)strlen(key);
    if (!read_head(bytes, size, &at, &head)) {
        return 0;
    }
    for (uint32_t i = head.value; i > 0; i--) {
        embarq_cbor_item name;
        if (!read_head(bytes, size, &at, &name)) {
            return 0;
        }
        at += name.value;
        if (name.value == length && memcmp(name.data, key, length) == 0) {
            return read_head(bytes, size, &at, item);
        }
        if (!skip_item(bytes, size, &at)) {
            return 0;
        }
    }
    return 0;
}

void embarq_cbor_raw(embarq_cbor_out *out, const void *data, uint32_t size)
{
    if (out->full || size > out->size - out->used) {
        out->full = 1;
        return;
    }
    memmove(out->bytes + out->used, data, size); /* echo answers from within the very buffer it was asked in */
    out->used += size;
}

void embarq_cbor_head(embarq_cbor_out *out, embarq_cbor_type type, uint64_t value)
{
    uint8_t head[9];
    uint32_t count = 0; /* bytes of the number after the first byte */
    uint8_t info = (uint8_t)value;
    if (value >= 24) {
        info = value <= 0xff ? 24 : value <= 0xffff ? 25 : value <= 0xffffffffu ? 26 : 27;
        count = 1u << (info - 24);
    }
    head[0] = (uint8_t)((uint8_t)type << 5 | info);
    for (uint32_t i = 0; i < count; i++) {
        head[count - i] = (uint8_t)(value >> (8 * i));
    }
    embarq_cbor_raw(out, head, count + 1);
}

void embarq_cbor_string(embarq_cbor_out *out, embarq_cbor_type type, const void *data, uint32_t size)
{
    embarq_cbor_head(out, type, size);
    embarq_cbor_raw(out, data, size);
}

void embarq_cbor_text(embarq_cbor_out *out, const char *text)
{
    embarq_cbor_string(out, EMBARQ_CBOR_TEXT, text, (uint32_t)strlen(text));
}

void embarq_cbor_int(embarq_cbor_out *out, int32_t value)
{
    if (value < 0) {
        embarq_cbor_head(out, EMBARQ_CBOR_NEGATIVE, (uint32_t) ~(uint32_t)value);
    } else {
        embarq_cbor_head(out, EMBARQ_CBOR_UINT, (uint32_t)value);
    }
}

void embarq_cbor_float(embarq_cbor_out *out, float value)
{
    uint8_t item[5] = {0xfa, 0, 0, 0, 0}; /* not through head(): a float's bits are never shortened */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (uint32_t i = 0; i < 4; i++) {
        item[4 - i] = (uint8_t)(bits >> (8 * i));
    }
    embarq_cbor_raw(out, item, sizeof item);
}

void embarq_cbor_key_uint(embarq_cbor_out *out, const char *key, uint64_t value)
{
    embarq_cbor_text(out, key);
    embarq_cbor_head(out, EMBARQ_CBOR_UINT, value);
}
