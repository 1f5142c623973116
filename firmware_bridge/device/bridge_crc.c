#include "bridge_internal.h"

uint16_t embarq_crc16(uint16_t crc, uint8_t byte)
{
    uint32_t value = crc ^ ((uint32_t)byte << 8);
    for (int bit = 0; bit < 8; bit++) {
        value = (value & 0x8000u) != 0 ? (value << 1) ^ 0x1021u : value << 1;
    }
    return (uint16_t)value;
}

uint32_t embarq_crc32(uint32_t crc, const uint8_t *bytes, uint32_t size)
{
    static const uint32_t table[16] = {
        /* four bits at a time: 64 bytes of table, a quarter of the bitwise time */
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    crc = ~crc;
    for (uint32_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}
