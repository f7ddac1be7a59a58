/* How the kernels share their work: `parallel` calls body in this thread, and in others if they are free, with a `Work`
   that hands out the numbers of items from 0 on; each goes to one thread. */

#include <stdint.h>

typedef struct Work {
    int id; /* which of the threads, from 0 on */
    int64_t (*next)(struct Work *); /* the next item, -1 if there is none */
} Work;

typedef void Body(const void *context, Work *work);
typedef void Parallel(int threads, int64_t items, Body *body, const void *context);
