/* Many calls at once: each is the address of `void f(const int64_t *)`, the number of its arguments, and these. */

#include <stdint.h>

void replay(const int64_t *calls, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        ((void (*)(const int64_t *))calls[0])(calls + 2);
        calls += 2 + calls[1];
    }
}
