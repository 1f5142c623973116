/* The part of CBOR (RFC 8949) that SMP needs: definite lengths, 32-bit numbers, text keys. */
#ifndef EMBARQ_CBOR_H
#define EMBARQ_CBOR_H

#include <stddef.h>
#include <stdint.h>

/* Freestanding compilers bring these functions but not always string.h. */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);

typedef enum {
    EMBARQ_CBOR_UINT = 0,
    EMBARQ_CBOR_NEGATIVE = 1,
    EMBARQ_CBOR_BYTES = 2,
    EMBARQ_CBOR_TEXT = 3,
    EMBARQ_CBOR_ARRAY = 4,
    EMBARQ_CBOR_MAP = 5,
    EMBARQ_CBOR_TAG = 6,
    EMBARQ_CBOR_SIMPLE = 7 /* false 20, true 21, null 22; floats carry their bits */
} embarq_cbor_type;

/* One item: `value` is the number, the count of bytes or the count of elements; `data` is what follows the head. */
typedef struct {
    uint8_t type;
    uint32_t value;
    const uint8_t *data;
} embarq_cbor_item;

/* Where answers are written. `full` is set, and nothing more written, once `size` would be exceeded. */
typedef struct embarq_cbor_out {
    uint8_t *bytes;
    uint32_t size;
    uint32_t used;
    uint8_t full;
} embarq_cbor_out;

/* 1 when the `size` bytes are exactly one well-formed map with text keys (or nothing at all), else 0. */
int embarq_cbor_is_map(const uint8_t *bytes, uint32_t size);

/* Find `key` in a map that embarq_cbor_is_map() has passed. 1 and `item` filled when it is there; the first one counts. */
int embarq_cbor_find(const uint8_t *bytes, uint32_t size, const char *key, embarq_cbor_item *item);

/* A head alone: the number itself, or the count of what the caller writes next. */
void embarq_cbor_head(embarq_cbor_out *out, embarq_cbor_type type, uint32_t value);
void embarq_cbor_raw(embarq_cbor_out *out, const void *data, uint32_t size); /* what a head announced */
void embarq_cbor_string(embarq_cbor_out *out, embarq_cbor_type type, const void *data, uint32_t size);
void embarq_cbor_text(embarq_cbor_out *out, const char *text); /* zero-terminated */
void embarq_cbor_int(embarq_cbor_out *out, int32_t value);
void embarq_cbor_uint64(embarq_cbor_out *out, uint64_t value); /* always 9 bytes */
void embarq_cbor_float(embarq_cbor_out *out, float value);
void embarq_cbor_key_uint(embarq_cbor_out *out, const char *key, uint32_t value);
void embarq_cbor_numbers(embarq_cbor_out *out, const char *key, const uint32_t *values, uint32_t count);

#endif
