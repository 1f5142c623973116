/* Counts what an emulated Cortex-M executes. Built for the host on first use; unicorn calls count_block before each block.
 *
 * A block is a straight run of instructions. Its instructions are decoded once, here, for their number and their cycles;
 * the cost of a taken branch is added when the next block does not follow the last one.
 */
#include <stdint.h>

#define STEPS 4096u

typedef struct { /* cycles of each class of instruction; see CYCLE_MODELS in counter.py */
    uint32_t load, load_again, store, multiple, branch_taken, multiply, divide, float_op, float_mac, float_divide;
} costs;

typedef struct {
    uint32_t size, instructions, cycles, floats;
    uint64_t executed, executed_cycles;
} block;

typedef struct {
    uint64_t instructions, cycles, limit;
    uint64_t step_instructions[STEPS], step_cycles[STEPS];
    int (*emu_stop)(void *); /* uc_emu_stop */
    const uint8_t *code;     /* host address of code_start */
    const volatile uint32_t *step; /* the firmware's current step, or NULL */
    block *blocks;           /* one for each halfword of the code */
    uint32_t code_start, code_end;
    uint32_t last_start, last_size;
    uint32_t stop;           /* not 0: stop before the next block */
    uint32_t stopped;        /* set when a block was not started because of stop or limit */
    uint32_t fpu_on;         /* CPACR allows the FPU */
    uint32_t fpu_trap;       /* set when a block with FPU instructions was not started because of that */
    costs cost;
} counter;

static uint32_t bits(uint32_t word)
{
    uint32_t n = 0;
    for (; word; word &= word - 1) {
        n++;
    }
    return n;
}

enum { PLAIN, LOAD, STORE, OTHER };

static uint32_t single(const costs *c, int is_load, int *last)
{
    uint32_t cycles = is_load ? (*last == LOAD || *last == STORE ? c->load_again : c->load) : c->store;
    *last = is_load ? LOAD : STORE;
    return cycles;
}

static uint32_t narrow(const costs *c, uint32_t h, int *last)
{
    uint32_t top = h >> 12;
    if ((h & 0xF800) == 0x4800) return single(c, 1, last);                      /* LDR literal */
    if (top == 5) return single(c, (h >> 9 & 7) >= 3, last);                    /* register offset */
    if (top == 6 || top == 7 || top == 8 || top == 9) return single(c, h >> 11 & 1, last);
    *last = OTHER;
    if ((h & 0xF600) == 0xB400) return c->multiple + bits(h & 0x1FF);           /* PUSH, POP */
    if (top == 12) return c->multiple + bits(h & 0xFF);                         /* STM, LDM */
    if ((h & 0xFFC0) == 0x4340) return c->multiply;                             /* MULS */
    return 1;
}

static uint32_t floating(const costs *c, uint32_t h, uint32_t l, int *last)
{
    if ((h & 0xFE00) == 0xEC00) {                                               /* VLDR, VSTR, VLDM, VSTM, VMOV of two */
        if ((h & 0x01A0) == 0) { *last = OTHER; return 2; }
        if ((h & 0x0120) == 0x0100) return single(c, h >> 4 & 1, last);
        *last = OTHER;
        return c->multiple + (l & 0xFF);
    }
    *last = OTHER;
    if ((h & 0xEF00) == 0xEE00 && !(l & 0x10)) {                                /* data processing */
        uint32_t op = (h >> 4 & 0xB);
        if (op == 0 || op == 1 || op == 9 || op == 10) return c->float_mac;     /* VMLA, VNMLA, VFNMA, VFMA */
        if (op == 8) return c->float_divide;
        if (op == 11 && (h & 0xF) == 1 && (l & 0xC0) == 0xC0) return c->float_divide; /* VSQRT */
    }
    return c->float_op;
}

static int is_float(uint32_t h, uint32_t l) /* coprocessors 10 and 11 */
{
    return (h & 0xEC00) == 0xEC00 && (l & 0x0E00) == 0x0A00;
}

static uint32_t wide(const costs *c, uint32_t h, uint32_t l, int *last)
{
    if ((h & 0xFE40) == 0xE800) { *last = OTHER; return c->multiple + bits(l); } /* LDM, STM, PUSH.W, POP.W */
    if ((h & 0xFFE0) == 0xE8C0 && (l & 0xE0) == 0 && (h & 0x10)) { *last = OTHER; return c->load; } /* TBB, TBH */
    if ((h & 0xFE40) == 0xE840) { *last = OTHER; return c->multiple + 2; }       /* LDRD, STRD and exclusives */
    if ((h & 0xFE00) == 0xF800) return single(c, h >> 4 & 1, last);              /* LDR, STR of all sizes */
    if (is_float(h, l)) return floating(c, h, l, last);
    *last = OTHER;
    if ((h & 0xFF80) == 0xFB80) return (h & 0xD0) == 0x90 && (l & 0xF0) == 0xF0 ? c->divide : c->multiply;
    if ((h & 0xFF80) == 0xFB00) return c->multiply;
    return 1;
}

static block decode(const counter *c, const uint8_t *code, uint32_t size)
{
    block b = {size, 0, 0, 0, 0, 0};
    int last = PLAIN;
    for (uint32_t at = 0; at + 2 <= size; b.instructions++) {
        uint32_t h = code[at] | (uint32_t)code[at + 1] << 8;
        int is_wide = (h >> 11) >= 0x1D;
        uint32_t l = is_wide && at + 4 <= size ? code[at + 2] | (uint32_t)code[at + 3] << 8 : 0;
        b.cycles += is_wide ? wide(&c->cost, h, l, &last) : narrow(&c->cost, h, &last);
        b.floats |= is_wide && is_float(h, l);
        at += is_wide ? 4 : 2;
    }
    return b;
}

/* For tests and for what is left of a block that was cut short. */
void count_decode(const counter *c, const uint8_t *code, uint32_t size, uint32_t *instructions, uint32_t *cycles)
{
    block b = decode(c, code, size);
    *instructions = b.instructions;
    *cycles = b.cycles;
}

/* UC_HOOK_BLOCK */
void count_block(void *uc, uint64_t address, uint32_t size, void *user)
{
    counter *c = user;
    uint32_t start = (uint32_t)address, step = c->step ? *c->step : 0;
    block *b;
    uint64_t cycles;
    if (c->stop || c->instructions >= c->limit) {
        c->stopped = 1;
        c->emu_stop(uc);
        return;
    }
    if (start < c->code_start || start >= c->code_end) {
        c->last_size = 0; /* code outside the program: the fault that follows tells */
        return;
    }
    b = &c->blocks[(start - c->code_start) >> 1];
    if (b->size != size) {
        block fresh = decode(c, c->code + (start - c->code_start), size);
        fresh.executed = b->executed;
        fresh.executed_cycles = b->executed_cycles;
        *b = fresh;
    }
    if (b->floats && !c->fpu_on) {
        c->stopped = c->fpu_trap = 1;
        c->emu_stop(uc);
        return;
    }
    cycles = b->cycles + (c->last_size && start != c->last_start + c->last_size ? c->cost.branch_taken : 0);
    step = step < STEPS ? step : STEPS - 1;
    c->last_start = start;
    c->last_size = size;
    c->instructions += b->instructions;
    c->cycles += cycles;
    c->step_instructions[step] += b->instructions;
    c->step_cycles[step] += cycles;
    b->executed += b->instructions;
    b->executed_cycles += cycles;
}

/* UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE over one range: how far into it the program went. One range a hook. */
void count_access(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    uint64_t *extent = user; /* {low, high} */
    (void)uc;
    (void)type;
    (void)value;
    if (address < extent[0]) {
        extent[0] = address;
    }
    if (address + (uint64_t)size > extent[1]) {
        extent[1] = address + (uint64_t)size;
    }
}
