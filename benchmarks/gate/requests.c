/* Callgrind's client requests, for ctypes: they are instruction sequences that Python cannot execute. */
#include <valgrind/callgrind.h>

int gate_is_counting(void)
{
    return RUNNING_ON_VALGRIND != 0;
}

/* From here on instructions are counted; what is imported before runs three times faster. */
void gate_start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
}

/* Writes a file with the counts since the last dump. */
void gate_dump(const char *label)
{
    CALLGRIND_DUMP_STATS_AT(label);
}
