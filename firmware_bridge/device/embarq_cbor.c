#include "embarq_cbor.h"

static int same(const uint8_t *bytes, const char *text, uint32_t length)
{
    while (length > 0 && bytes[length - 1] == (uint8_t)text[length - 1]) {
        length--;
    }
    return length == 0;
}

static uint32_t text_length(const char *text)
{
    uint32_t length = 0;
    while (text[length] != 0) {
        length++;
    }
    return length;
}

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
    uint32_t length = text_length(key);
    if (!read_head(bytes, size, &at, &head)) {
        return 0;
    }
    for (uint32_t i = head.value; i > 0; i--) {
        embarq_cbor_item name;
        if (!read_head(bytes, size, &at, &name)) {
            return 0;
        }
        at += name.value;
        if (name.value == length && same(name.data, key, length)) {
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
    /* Forwards, byte by byte: echo answers from within the very buffer it was asked in, always to a lower address. */
    const uint8_t *from = data;
    while (size-- > 0) {
        out->bytes[out->used++] = *from++;
    }
}

/* `first` and the lowest `count` bytes of `value`, highest first. */
__attribute__((noinline)) static void put_number(embarq_cbor_out *out, uint32_t first, uint32_t value, uint32_t count)
{
    uint8_t item[5];
    item[0] = (uint8_t)first;
    for (uint32_t i = count; i > 0; i--) {
        item[i] = (uint8_t)value;
        value >>= 8;
    }
    embarq_cbor_raw(out, item, count + 1);
}

void embarq_cbor_head(embarq_cbor_out *out, embarq_cbor_type type, uint32_t value)
{
    uint32_t first = (uint32_t)type << 5;
    if (value < 24) {
        put_number(out, first | value, 0, 0);
    } else if (value <= 0xff) {
        put_number(out, first | 24, value, 1);
    } else if (value <= 0xffff) {
        put_number(out, first | 25, value, 2);
    } else {
        put_number(out, first | 26, value, 4);
    }
}

void embarq_cbor_string(embarq_cbor_out *out, embarq_cbor_type type, const void *data, uint32_t size)
{
    embarq_cbor_head(out, type, size);
    embarq_cbor_raw(out, data, size);
}

void embarq_cbor_text(embarq_cbor_out *out, const char *text)
{
    embarq_cbor_string(out, EMBARQ_CBOR_TEXT, text, text_length(text));
}

void embarq_cbor_int(embarq_cbor_out *out, int32_t value)
{
    embarq_cbor_head(out, value < 0 ? EMBARQ_CBOR_NEGATIVE : EMBARQ_CBOR_UINT, (uint32_t)(value < 0 ? ~value : value));
}

void embarq_cbor_float(embarq_cbor_out *out, float value)
{
    uint32_t bits; /* never shortened, unlike a head's number */
    memcpy(&bits, &value, sizeof bits);
    put_number(out, 0xfa, bits, 4);
}

void embarq_cbor_uint64(embarq_cbor_out *out, uint64_t value)
{
    uint32_t low = (uint32_t)value;
    put_number(out, 0x1b, (uint32_t)(value >> 32), 4);
    put_number(out, low >> 24, low, 3); /* the other four bytes */
}

void embarq_cbor_key_uint(embarq_cbor_out *out, const char *key, uint32_t value)
{
    embarq_cbor_text(out, key);
    embarq_cbor_head(out, EMBARQ_CBOR_UINT, value);
}

void embarq_cbor_numbers(embarq_cbor_out *out, const char *key, const uint32_t *values, uint32_t count)
{
    embarq_cbor_text(out, key);
    embarq_cbor_head(out, EMBARQ_CBOR_ARRAY, count);
    for (uint32_t k = 0; k < count; k++) {
        embarq_cbor_head(out, EMBARQ_CBOR_UINT, values[k]);
    }
}
