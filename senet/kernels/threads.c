/* Threads for the kernels in C, and many kernels by one call.

   A kernel never waits for a thread that has nothing to do: the caller computes what no other thread has begun. With OpenMP
   each kernel would wait for all threads, and on a busy machine, where one is not running, that takes milliseconds. Each
   thread begins with a part of the items that follow each other, the same in each call, so that what it wrote for the
   kernel before is in its cache; a thread that has done its part takes half of what another has left. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "threads.h"

enum {
    MOST = 64,    /* threads of a call */
    SLOTS = 32,   /* calls at the same time; a further one runs in its own thread */
    SPINS = 2000, /* looks for work before a thread lets others run */
    PATIENCE = 200000 /* nanoseconds without work until it sleeps */
};

/* Items `from` to `to` of a thread, in one number. */
typedef struct { _Alignas(64) _Atomic uint64_t range; } Part;

/* A call. `places` are the threads that may still join, as bits; a thread is counted in `inside` as long as it may read
   anything else. */
typedef struct {
    _Alignas(64) _Atomic int busy;
    _Atomic int inside;
    int threads;
    Body *body;
    const void *context;
    Part parts[MOST];
} Slot;

typedef struct { Work work; Slot *slot; } Worker;
typedef struct { Work work; int64_t at, end; } Alone;

static Slot slots[SLOTS];
static _Alignas(64) _Atomic uint64_t places[SLOTS];
static _Alignas(64) _Atomic int wanted; /* helpers that the calls of this moment can use */
static _Atomic int helpers, sleepers;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int cores = 1;

static inline void rest(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
}

static int64_t next_alone(Work *work)
{
    Alone *w = (Alone *)work;
    return w->at < w->end ? w->at++ : -1;
}

/* The next item of the thread's own part; of an empty one, it first gets the second half of another's. */
static int64_t next_shared(Work *work)
{
    const Worker *w = (Worker *)work;
    Slot *s = w->slot;
    _Atomic uint64_t *own = &s->parts[work->id].range;
    uint64_t r = atomic_load(own);
    while ((uint32_t)r < r >> 32)
        if (atomic_compare_exchange_weak(own, &r, r + 1)) return (uint32_t)r;
    for (int i = 1; i < s->threads; i++) {
        _Atomic uint64_t *of = &s->parts[(work->id + i) % s->threads].range;
        r = atomic_load(of);
        while ((uint32_t)r < r >> 32) {
            const uint64_t from = (uint32_t)r, to = r >> 32, half = to - (to - from + 1) / 2;
            if (!atomic_compare_exchange_weak(of, &r, half << 32 | from)) continue;
            atomic_store(own, to << 32 | (half + 1));
            return (int64_t)half;
        }
    }
    return -1;
}

static int join(int of, int preferred)
{
    Slot *s = &slots[of];
    int is_useful = 0;
    atomic_fetch_add(&s->inside, 1);
    uint64_t free = atomic_load(&places[of]);
    while (free) {
        const uint64_t bit = free >> preferred & 1 ? (uint64_t)1 << preferred : free & -free;
        if (!atomic_compare_exchange_weak(&places[of], &free, free & ~bit)) continue;
        Worker w = {{__builtin_ctzll(bit), next_shared}, s};
        s->body(s->context, &w.work);
        is_useful = 1;
        break;
    }
    atomic_fetch_sub(&s->inside, 1);
    return is_useful;
}

static int any_place(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (atomic_load(&places[i])) return 1;
    return 0;
}

/* A helper: it joins a call, the same part of each if it is free. */
static void *help(void *number)
{
    const int preferred = (int)(intptr_t)number % (MOST - 1) + 1;
    int64_t since = now();
    for (int spins = 0;;) {
        int found = 0;
        for (int i = 0; i < SLOTS; i++)
            if (atomic_load_explicit(&places[i], memory_order_relaxed)) found |= join(i, preferred);
        if (found) {
            spins = 0;
            since = 0;
        } else if (++spins < SPINS) {
            rest();
        } else if (!since) {
            since = now();
        } else if (now() - since < PATIENCE) {
            sched_yield();
        } else {
            pthread_mutex_lock(&lock);
            atomic_fetch_add(&sleepers, 1);
            while (!any_place()) pthread_cond_wait(&woken, &lock);
            atomic_fetch_sub(&sleepers, 1);
            pthread_mutex_unlock(&lock);
            spins = 0;
            since = 0;
        }
    }
    return NULL;
}

/* In a child of fork there are no helpers, and no other calls. */
static void forget(void)
{
    memset(slots, 0, sizeof slots);
    memset(places, 0, sizeof places);
    atomic_store(&wanted, 0);
    atomic_store(&helpers, 0);
    atomic_store(&sleepers, 0);
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    woken = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void set_up(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) cores = CPU_COUNT(&set);
#else
    cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
    pthread_atfork(NULL, NULL, forget);
}

/* Start helpers until there are `count`, as many as the system allows. Signals are for the program's own threads. */
static void start(int count)
{
    pthread_mutex_lock(&lock);
    while (atomic_load(&helpers) < count) {
        pthread_t thread;
        pthread_attr_t detached;
        sigset_t all, before;
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        const int failed = pthread_create(&thread, &detached, help, (void *)(intptr_t)atomic_load(&helpers));
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&detached);
        if (failed) break;
        atomic_fetch_add(&helpers, 1);
    }
    pthread_mutex_unlock(&lock);
}

static void alone(int64_t items, Body *body, const void *context)
{
    Alone w = {{0, next_alone}, 0, items};
    body(context, &w.work);
}

void parallel(int threads, int64_t items, Body *body, const void *context)
{
    static _Thread_local int last;
    if (threads > MOST) threads = MOST;
    if (threads > items) threads = (int)items;
    if (threads <= 1 || items > INT32_MAX) {
        alone(items, body, context);
        return;
    }
    pthread_once(&once, set_up);
    int of = last, tries = 0, no = 0;
    while (!atomic_compare_exchange_strong(&slots[of].busy, &no, 1)) {
        if (++tries == SLOTS) {
            alone(items, body, context);
            return;
        }
        of = (of + 1) % SLOTS, no = 0;
    }
    last = of;
    const int others = threads - 1, all = atomic_fetch_add(&wanted, others) + others, most = all < cores ? all : cores - 1;
    if (atomic_load(&helpers) < (most > others ? most : others)) start(most > others ? most : others);
    Slot *s = &slots[of];
    s->threads = threads, s->body = body, s->context = context;
    for (int64_t i = 0; i < threads; i++)
        atomic_store_explicit(&s->parts[i].range, (uint64_t)(items * (i + 1) / threads) << 32 | items * i / threads,
                              memory_order_relaxed);
    atomic_store(&places[of], (((uint64_t)1 << others) - 1) << 1);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        for (int i = 0; i < others; i++) pthread_cond_signal(&woken);
        pthread_mutex_unlock(&lock);
    }
    Worker w = {{0, next_shared}, s};
    body(context, &w.work);
    atomic_store(&places[of], 0);
    atomic_fetch_sub(&wanted, others);
    /* No item is left; those that were taken are being computed. */
    for (int spins = 0; atomic_load(&s->inside);)
        if (++spins < SPINS) rest();
        else sched_yield();
    atomic_store(&s->busy, 0);
}

/* Many calls at once: each is the address of a kernel, the number of its arguments, and these. */
void replay(const int64_t *calls, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        ((void (*)(const int64_t *, Parallel *))calls[0])(calls + 2, parallel);
        calls += 2 + calls[1];
    }
}
