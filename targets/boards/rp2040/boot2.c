/* boot2.s, assembled: the first 256 bytes of the flash. The last word is the CRC the boot ROM asks for. */
#include <stdint.h>

extern const uint32_t embarq_boot2[64];

__attribute__((section(".boot2"), used)) const uint32_t embarq_boot2[64] = {
    0x21004B0Au, 0x21046099u, 0x49096159u, 0x49096019u, 0x501920F4u, 0x60592100u, 0x60992101u, 0x49074806u,
    0xC8066008u, 0x8808F381u, 0x46C04710u, 0x18000000u, 0x001F0300u, 0x03000218u, 0x10000100u, 0xE000ED08u,
    [63] = 0x7F8F9C5Du,
};
