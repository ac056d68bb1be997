/* SPDX-License-Identifier: MPL-2.0 */
/* pace: looks now and then how much of the processors other programs use, and yields while that is little.  A thread
 * that finds the look due takes it; where /proc/stat cannot be read nobody yields. */
#include "transport/pace.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "transport/muster_loop.h"

enum { STAT_TEXT = 512 }; /* its first line is enough */

void
pace_look(struct pace *pace, const char *stat, int64_t ticks, int64_t own_us)
{
    long long user, nice, system, idle, waiting, irq, soft, stolen;
    int64_t busy, total, others_us, all_us;

    if (sscanf(stat, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice, &system, &idle, &waiting, &irq, &soft,
               &stolen) != 8) {
        atomic_store(&pace->yields, false);
        return;
    }
    busy = user + nice + system + irq + soft;
    total = busy + idle + waiting + stolen;
    others_us = (busy - pace->busy) * 1000000 / ticks - (own_us - pace->own_us);
    all_us = (total - pace->total) * 1000000 / ticks;
    atomic_store(&pace->yields, pace->total > 0 && others_us * 100 < all_us * PACE_OTHERS_MOST);
    pace->busy = busy;
    pace->total = total;
    pace->own_us = own_us;
}

static int64_t
own_us(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_usec;
}

static void
look_now(struct pace *pace)
{
    char text[STAT_TEXT] = "";
    int fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && read(fd, text, sizeof text - 1) < 0)
        text[0] = '\0';
    if (fd >= 0)
        (void)close(fd);
    pace_look(pace, text, sysconf(_SC_CLK_TCK), own_us());
}

void
pace_yield(struct pace *pace)
{
    int64_t now_ns = muster_uptime_ns(), due_ns = atomic_load(&pace->due_ns);

    if (now_ns >= due_ns && atomic_compare_exchange_strong(&pace->due_ns, &due_ns, INT64_MAX)) { /* nobody else now */
        look_now(pace);
        atomic_store(&pace->due_ns, now_ns + PACE_SAMPLE_NS);
    }
    if (atomic_load(&pace->yields))
        (void)sched_yield();
}
