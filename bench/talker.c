/* SPDX-License-Identifier: MPL-2.0 */
/* talker FIFO: an agent that says what it is told to, when it is told to.
 *
 * Each line "COUNT GAP_US SIZE" from the FIFO makes it print COUNT lines of SIZE bytes that begin with '~' and the time
 * of their writing; with a gap each is written by itself, without one as many at once as fit in a buffer. */
#include "bench/bench.h"

static void
say(FILE *out, long count, long gap_us, int size)
{
    struct timespec gap = {gap_us / 1000000, gap_us % 1000000 * 1000};

    for (; count > 0; count--) {
        (void)fprintf(out, "~%016lld%0*d\n", (long long)now_ns(), size - 18, 0);
        if (gap_us > 0) {
            (void)fflush(out);
            nanosleep(&gap, NULL);
        }
    }
    (void)fflush(out);
}

int
main(int argc, char **argv)
{
    static char buffer[1 << 16];
    long count, gap_us;
    FILE *fifo;
    int size;

    if (argc < 2)
        return 2;
    fifo = fopen(argv[1], "r+"); /* a writer of its own, so that it never ends */
    if (fifo == NULL)
        fail(argv[1]);
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    while (fscanf(fifo, "%ld %ld %d", &count, &gap_us, &size) == 3 && count > 0)
        say(stdout, count, gap_us, size);
    return 0;
}
