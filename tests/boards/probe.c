/* Does what it is told, one letter a command: crashes of every kind, memory that must be initialised, a reset. */
#include "board.h"
#include "common/cortex_m.h"

volatile uint32_t embarq_current_step = 0xFFFFFFFFu;
volatile uint32_t initialised = 0x12345678u;
volatile uint32_t cleared;
volatile uint32_t kept __attribute__((section(".noinit")));
uint8_t arena[1024] __attribute__((section(".arena_0"), aligned(16)));

static void say(const char *s)
{
    size_t n = 0;
    while (s[n]) {
        n++;
    }
    board_uart_write((const uint8_t *)s, n);
}

__attribute__((noinline)) static void stray_write(void)
{
    *(volatile uint32_t *)0xa0001234u = 1;
}

__attribute__((noinline)) static void stray_read(void)
{
    (void)*(volatile uint8_t *)0xa0001235u;
}

__attribute__((noinline)) static void flash_write(void)
{
    *(volatile uint32_t *)(uintptr_t)&stray_write = 1;
}

__attribute__((noinline)) static void jump_away(void)
{
    void (*volatile away)(void) = (void (*)(void))0x90000001u;
    away();
}

__attribute__((noinline)) static void jump_to_data(void)
{
    void (*volatile data)(void) = (void (*)(void))((uintptr_t)arena | 1u);
    data();
}

__attribute__((noinline)) static uint32_t deep(uint32_t n)
{
    volatile uint32_t frame[16];
    for (uint32_t i = 0; i < 16; i++) {
        frame[i] = n;
    }
    return n == 0 ? frame[0] : deep(n - 1) + frame[15];
}

__attribute__((noinline)) static void steps(void)
{
    for (uint32_t step = 0; step < 3; step++) {
        embarq_current_step = step;
        uint32_t n = 100u * (step + 1u);
        __asm volatile("1: subs %0, #1\n\t"
                       "bne 1b"
                       : "+l"(n)
                       :
                       : "cc");
    }
    embarq_current_step = 0xFFFFFFFFu;
}

__attribute__((noinline)) static void touch_arena(void)
{
    *(volatile uint8_t *)&arena[5] = 0;
    *(volatile uint16_t *)(uintptr_t)&arena[698] = 0;
}

static void obey(int command)
{
    switch (command) {
    case 'w': embarq_current_step = 1; stray_write(); break;
    case 'r': stray_read(); break;
    case 'f': flash_write(); break;
    case 'j': jump_away(); break;
    case 'd': jump_to_data(); break;
    case 'u': __asm volatile("udf #0"); break;
    case 'v': __asm volatile("svc #3"); break;
    case 'S': (void)deep(100000u); break;
    case 's': (void)deep(8u); break;
    case 'p': steps(); break;
    case 'a': touch_arena(); break;
    case 'z': __asm volatile("wfi"); break;
    case 'x': initialised = 1; cleared = 2; kept = 0x4b455054u; board_reset(); break;
    case 'i': say(initialised == 0x12345678u && cleared == 0 ? "good\n" : "bad\n"); break;
    case 'k': say(kept == 0x4b455054u ? "kept\n" : "lost\n"); break;
    default: say("?\n"); break;
    }
}

int main(void)
{
    board_init();
    say("ready\n");
    for (;;) {
        int command = board_uart_read();
        if (command < 0) {
            board_wait();
        } else {
            obey(command);
        }
    }
}
