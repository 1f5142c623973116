/* The least the boot ROM wants to see in the first 4 KiB of the flash (RP2350 datasheet 5.9.5): an executable, secure, Arm. */
#include <stdint.h>

extern const uint32_t embarq_image_def[5];

__attribute__((section(".image_def"), used)) const uint32_t embarq_image_def[5] = {
    0xFFFFDED3u, /* block begins */
    0x10210142u, /* image type: executable, secure, Arm, RP2350 */
    0x000001FFu, /* last item */
    0x00000000u, /* a loop of this one block */
    0xAB123579u, /* block ends */
};
