/* SMP's console framing, both ways: [length 16][packet][CRC 16] in base64, in lines of at most 127 bytes. */
#include "bridge_internal.h"

enum { STATE_TEXT, STATE_START, STATE_CONTINUE, STATE_LINE, STATE_SKIP };

#define FIRST_LINE_1 0x06u
#define FIRST_LINE_2 0x09u
#define NEXT_LINE_1 0x04u
#define NEXT_LINE_2 0x14u
#define PAD 64
#define LINE_CHARACTERS 124u /* of base64: a line is these, two bytes before and one after */
#define LENGTH_SIZE 2u
#define CRC_SIZE 2u

static int base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : c == '=' ? PAD : -1;
}

/* One decoded byte. The CRC is kept as bytes come, so that even a frame longer than the buffer can be judged. */
static void take_byte(embarq_bridge *bridge, uint8_t byte)
{
    embarq_frame_reader *frame = &bridge->frame;
    uint32_t at = frame->received++;
    if (at < LENGTH_SIZE) {
        frame->length = (frame->length << 8) | byte;
        return;
    }
    frame->crc = embarq_crc16(frame->crc, byte);
    if (at - LENGTH_SIZE < bridge->config.buffer_size) {
        bridge->config.buffer[at - LENGTH_SIZE] = byte;
    }
}

/* One base64 character; 0 when the frame is damaged. */
static int take_character(embarq_bridge *bridge, uint8_t c)
{
    embarq_frame_reader *frame = &bridge->frame;
    int value = base64_value(c);
    if (value < 0 || (frame->pad_count != 0 && value != PAD) || (value == PAD && frame->quad_count < 2)) {
        return 0;
    }
    if (value == PAD) {
        frame->pad_count++;
    }
    frame->quad = (frame->quad << 6) | (uint32_t)(value & 63);
    if (++frame->quad_count == 4) {
        frame->quad_count = 0;
        for (int shift = 16; shift >= 8 * frame->pad_count; shift -= 8) {
            take_byte(bridge, (uint8_t)(frame->quad >> shift));
        }
    }
    return frame->received < LENGTH_SIZE || frame->received <= frame->length + LENGTH_SIZE;
}

static void end_frame(embarq_bridge *bridge)
{
    embarq_frame_reader *frame = &bridge->frame;
    frame->open = 0;
    /* A CRC taken over data and its own CRC is 0. */
    if (frame->crc != 0 || frame->length < SMP_HEADER_SIZE + CRC_SIZE) {
        return;
    }
    uint32_t size = embarq_smp_answer(bridge, frame->length - CRC_SIZE);
    if (size > 0) {
        embarq_frame_write(bridge, size);
    }
    if (bridge->reset_wanted) {
        bridge->reset_wanted = 0;
        bridge->config.reset(bridge->config.context);
    }
}

static void begin_line(embarq_frame_reader *frame, int first)
{
    if (first) {
        memset(frame, 0, sizeof *frame);
        frame->open = 1;
    }
    frame->state = STATE_LINE;
    frame->quad_count = 0;
}

static void line_byte(embarq_bridge *bridge, uint8_t byte)
{
    embarq_frame_reader *frame = &bridge->frame;
    if (byte == '\r') {
        return;
    }
    if (byte == '\n') {
        frame->state = STATE_TEXT;
        if (frame->quad_count != 0) {
            frame->open = 0;
        } else if (frame->received >= LENGTH_SIZE && frame->received == frame->length + LENGTH_SIZE) {
            end_frame(bridge);
        }
    } else if (!take_character(bridge, byte)) {
        frame->open = 0;
        frame->state = STATE_SKIP; /* the rest of a damaged line is nobody's text */
    }
}

void embarq_bridge_byte(embarq_bridge *bridge, uint8_t byte)
{
    embarq_frame_reader *frame = &bridge->frame;
    if (byte == FIRST_LINE_1) { /* stands in no base64: wherever it comes, a frame begins anew */
        frame->state = STATE_START;
        return;
    }
    switch (frame->state) {
    case STATE_START:
        frame->state = STATE_SKIP;
        if (byte == FIRST_LINE_2) {
            begin_line(frame, 1);
        }
        break;
    case STATE_CONTINUE:
        frame->state = STATE_SKIP;
        if (byte == NEXT_LINE_2 && frame->open) {
            begin_line(frame, 0);
        }
        break;
    case STATE_LINE:
        line_byte(bridge, byte);
        break;
    case STATE_SKIP:
        frame->state = byte == '\n' ? STATE_TEXT : STATE_SKIP;
        break;
    default:
        if (byte == NEXT_LINE_1) {
            frame->state = STATE_CONTINUE;
        } else if (bridge->config.text != NULL) {
            bridge->config.text(bridge->config.context, byte);
        }
    }
}

/* Byte `i` of [length][packet][CRC]. */
static uint8_t frame_at(const uint8_t *packet, uint32_t size, uint16_t crc, uint32_t i)
{
    uint32_t length = size + CRC_SIZE;
    if (i < LENGTH_SIZE) {
        return (uint8_t)(length >> (8 * (1 - i)));
    }
    i -= LENGTH_SIZE;
    return i < size ? packet[i] : (uint8_t)(crc >> (8 * (1 - (i - size))));
}

void embarq_frame_write(embarq_bridge *bridge, uint32_t size)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const uint8_t first[] = {FIRST_LINE_1, FIRST_LINE_2}, next[] = {NEXT_LINE_1, NEXT_LINE_2}, end[] = {'\n'};
    const embarq_bridge_config *config = &bridge->config;
    uint32_t total = LENGTH_SIZE + size + CRC_SIZE;
    uint16_t crc = 0;
    for (uint32_t i = 0; i < size; i++) {
        crc = embarq_crc16(crc, config->buffer[i]);
    }
    config->write(config->context, first, sizeof first);
    for (uint32_t i = 0, column = 0; i < total; i += 3, column += 4) {
        uint32_t count = total - i < 3 ? total - i : 3;
        uint8_t out[4] = {'=', '=', '=', '='};
        uint32_t bits = 0;
        for (uint32_t k = 0; k < 3; k++) {
            bits = (bits << 8) | (k < count ? frame_at(config->buffer, size, crc, i + k) : 0u);
        }
        for (uint32_t k = 0; k <= count; k++) {
            out[k] = (uint8_t)alphabet[(bits >> (18 - 6 * k)) & 63u];
        }
        if (column == LINE_CHARACTERS) {
            column = 0;
            config->write(config->context, end, sizeof end);
            config->write(config->context, next, sizeof next);
        }
        config->write(config->context, out, sizeof out);
    }
    config->write(config->context, end, sizeof end);
}
