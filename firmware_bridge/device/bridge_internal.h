/* What the bridge's own files share; not for users. */
#ifndef EMBARQ_BRIDGE_INTERNAL_H
#define EMBARQ_BRIDGE_INTERNAL_H

#include "embarq_bridge.h"
#include "embarq_cbor.h"

#define SMP_HEADER_SIZE 8u
#define SMP_GROUP_OS 0u
#define SMP_GROUP_MODEL 64u
#define SMP_GROUP_TRAINING 65u

/* SMP's own codes for what is wrong with a request (MGMT_ERR). */
enum { SMP_EINVAL = 3, SMP_EMSGSIZE = 7, SMP_ENOTSUP = 8, SMP_ECORRUPT = 9, SMP_TOO_NEW = 13 };

/* What a handler returns: 0, one of the codes above, or a code of its group raised by this. */
#define GROUP_ERROR 256
#define REFUSE(code) (GROUP_ERROR + (int)(code)) /* an embarq_bridge_error or, of the training group, an embarq_training_error */

/* A request whose CBOR has been checked to be one map. */
typedef struct embarq_request {
    uint8_t write; /* op was write, not read */
    uint8_t command;
    uint32_t size;
    const uint8_t *cbor;
} smp_request;

/* A request may be overwritten as soon as a handler writes its answer: both lie in the one buffer. */
typedef int (*smp_handler)(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);

uint16_t embarq_crc16(uint16_t crc, uint8_t byte);                     /* XMODEM: 0x1021, start 0 */
uint32_t embarq_crc32(uint32_t crc, const uint8_t *bytes, uint32_t size); /* zlib's; start 0 */

/* Carry out the request in config.buffer and leave its answer there; the answer's size, 0 for none. */
uint32_t embarq_smp_answer(embarq_bridge *bridge, uint32_t packet_size);
void embarq_frame_write(embarq_bridge *bridge, uint32_t packet_size);

/* An unsigned number under `key`; 0 when it is absent or of another type. */
int embarq_get_uint(const smp_request *request, const char *key, uint32_t *value);

int embarq_model_group(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);

void embarq_run_init(embarq_bridge *bridge); /* no input written, no result */
int embarq_inputs_ready(const embarq_bridge *bridge);

/* Steps [next_step, end) of config.model: ticks of each are added up in 64 bits, so that only one step must stay below 2^32. */
void embarq_run_steps(embarq_bridge *bridge, uint32_t end);

/* Up to `len` bytes of a tensor or variable from `off`, as many as one answer holds. */
int embarq_put_piece(embarq_bridge *bridge, const smp_request *request, embarq_ref ref, uint32_t size, embarq_cbor_out *out);

int embarq_write_input(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);
int embarq_run_whole(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);
int embarq_run_page(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);
int embarq_read_output(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);
int embarq_read_layer(embarq_bridge *bridge, const smp_request *request, embarq_cbor_out *out);

static inline const embarq_training *embarq_training_of(const embarq_bridge *bridge)
{
    return *bridge->config.learning->training;
}

/* bridge_store.c: copies of the trained values in flash. */
uint32_t embarq_store_size(const embarq_training *training);      /* bytes of all variables together */
int embarq_store_room(const embarq_bridge *bridge);               /* 1 when each slot holds a copy */
void embarq_store_find(embarq_bridge *bridge);                    /* state->sequence and slot: the newest whole copy of this model */
int embarq_store_load(embarq_bridge *bridge);                     /* that copy into the variables; 1 when there was one */
int embarq_store_commit(embarq_bridge *bridge);                   /* a copy of the variables; 0 or an embarq_training_error */
int embarq_store_erase(embarq_bridge *bridge);                    /* both copies; 0 or an embarq_training_error */

#endif
