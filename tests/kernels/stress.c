/* Calls of `parallel` from several threads and from a child of fork, whose items must each be computed once. Exit status 0. */

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "threads.h"

enum { CALLERS = 5, MOST = 3000 };

void parallel(int threads, int64_t items, Body *body, const void *context);

typedef struct { int *done; int threads, slow; } Call;

static void count(const void *context, Work *work)
{
    const Call *call = context;
    if (work->id < 0 || work->id >= call->threads) abort();
    for (int64_t i; (i = work->next(work)) >= 0;) {
        call->done[i]++;
        if (i % 64 == call->slow) sched_yield();
    }
}

static void *calls(void *number)
{
    unsigned seed = (unsigned)(intptr_t)number;
    int *done = malloc(MOST * sizeof *done);
    for (int n = 0; n < 1500; n++) {
        const int threads = rand_r(&seed) % 6 + 1, items = rand_r(&seed) % (n % 10 ? 20 : MOST);
        const Call call = {done, threads, rand_r(&seed) % 128};
        memset(done, 0, MOST * sizeof *done);
        parallel(threads, items, count, &call);
        for (int i = 0; i < MOST; i++)
            if (done[i] != (i < items)) {
                fprintf(stderr, "item %d of %d: computed %d times\n", i, items, done[i]);
                abort();
            }
    }
    free(done);
    return NULL;
}

int main(void)
{
    pthread_t callers[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, calls, (void *)(i + 1));
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    const pid_t child = fork();
    if (!child) {
        calls((void *)(intptr_t)99);
        _exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    calls((void *)(intptr_t)100);
    return status;
}
