/* Runs a fuzz target without libFuzzer: good input, damaged, for so many seconds.
 *     fuzz_TARGET SECONDS SEED
 * The same seed gives the same inputs. A failing one is in fuzz-failure.bin, should the process die. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sanitizer/common_interface_defs.h>

#define ROOM 8192
#define RUNS_BETWEEN_CLOCKS 1000

static uint32_t state;
static const uint8_t *last;
static size_t last_size;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void save_last(void)
{
    FILE *file = fopen("fuzz-failure.bin", "wb");

    if (file == NULL)
        return;
    fwrite(last, 1, last_size, file);
    fclose(file);
    fputs("input saved to fuzz-failure.bin\n", stderr);
}

/* Change a few bytes, mostly to numbers that lengths and types are made of. */
static size_t damage(uint8_t *bytes, size_t size)
{
    static const uint8_t likely[] = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 20, 32, 33, 64, 127, 128, 129, 255};

    for (uint32_t n = next_random() % 6; n > 0 && size > 0; n--) {
        size_t at = next_random() % size;

        switch (next_random() % 5) {
        case 0:
            bytes[at] = (uint8_t)next_random();
            break;
        case 1: /* a bit */
            bytes[at] ^= (uint8_t)(1u << next_random() % 8);
            break;
        case 2: /* cut off */
            size = at;
            break;
        case 3: /* a piece again, elsewhere */
            memmove(bytes + at, bytes + next_random() % (at + 1), (size - at) / 2);
            break;
        default:
            bytes[at] = likely[next_random() % sizeof likely];
        }
    }
    return size;
}

static void run_once(const uint8_t *input, size_t size)
{
    /* Exactly as long as the input, so that one byte too far is an error. */
    uint8_t *exact = malloc(size);

    if (exact == NULL && size > 0)
        abort();
    if (size > 0)
        memcpy(exact, input, size);
    last = exact;
    last_size = size;
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int argc, char **argv)
{
    static uint8_t input[ROOM];
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    unsigned long runs = 0;

    state = argc > 2 ? (uint32_t)atoi(argv[2]) : 1;
    state = state ? state : 1;
    __sanitizer_set_death_callback(save_last);
    do {
        for (int i = 0; i < RUNS_BETWEEN_CLOCKS; i++, runs++) {
            size_t size = make_good_input(next_random(), input, ROOM);

            run_once(input, damage(input, size));
        }
    } while (time(NULL) < end);
    printf("%s: %lu inputs, no error\n", argv[0], runs);
    return 0;
}
